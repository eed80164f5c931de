// Context: the threads that compute an operator together, and their scratch memory.
//
// Threads synchronise twice at every operator, some hundred times a step, so they spin briefly
// before they sleep: long enough for the next operator, short enough to leave the core to others
// soon. Tasks are claimed one by one. A thread that another process keeps from running delays only
// the task it holds, and the caller can do all of them alone.

#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include <immintrin.h>

enum class Scratch { kPackedRows, kQkv, kMixed, kGated, kCount };

class Context {
  public:
    explicit Context(int num_threads) {
        for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this] { work(); });
    }

    ~Context() {
        stopping_.store(true);
        ticket_.store(kEnded);
        wake();
        for (auto& worker : workers_) worker.join();
    }

    int64_t num_threads() const { return static_cast<int64_t>(workers_.size()) + 1; }

    // Calls function(task) for every task from 0 to count; returns when all are done.
    template <typename Function>
    void parallel_for(int64_t count, const Function& function) {
        if (workers_.empty() || count <= 1) {
            for (int64_t task = 0; task < count; ++task) function(task);
            return;
        }
        // Closed while the job changes, so that no task of one job is claimed for another.
        ticket_.store(kClosed);
        call_.store(&call<Function>, std::memory_order_relaxed);
        function_.store(&function, std::memory_order_relaxed);
        count_.store(static_cast<uint32_t>(count), std::memory_order_relaxed);
        done_.store(0, std::memory_order_relaxed);
        ticket_.store(static_cast<uint64_t>(++epoch_) << 32);
        if (num_sleeping_.load()) wake();
        while (claim()) {
        }
        while (done_.load(std::memory_order_acquire) != count) _mm_pause();
    }

    // At least `bytes` of memory for one purpose, valid until the next call for it.
    void* scratch(Scratch purpose, size_t bytes) {
        Memory& memory = scratch_[static_cast<int>(purpose)];
        if (bytes > memory.size) {
            memory.size = (bytes + 4095) / 4096 * 4096;
            memory.start.reset(std::aligned_alloc(4096, memory.size));
        }
        return memory.start.get();
    }

  private:
    static constexpr uint64_t kClosed = 0xffffffff;  // a ticket whose task is past every count
    static constexpr uint64_t kEnded = ~0ull;        // likewise; wakes threads that wait at kClosed
    static constexpr int kSpins = 4000;              // some 50 microseconds

    struct Free {
        void operator()(void* memory) const { std::free(memory); }
    };

    struct Memory {
        size_t size = 0;
        std::unique_ptr<void, Free> start;
    };

    template <typename Function>
    static void call(const void* function, int64_t task) {
        (*static_cast<const Function*>(function))(task);
    }

    // Does one task of the current job; false if none is left.
    bool claim() {
        uint64_t ticket = ticket_.load(std::memory_order_acquire);
        while (true) {
            const auto call = call_.load(std::memory_order_relaxed);
            const auto function = function_.load(std::memory_order_relaxed);
            const uint32_t count = count_.load(std::memory_order_relaxed);
            const auto task = static_cast<uint32_t>(ticket);
            if (task >= count) return false;
            // The job read above is the ticket's: the ticket changes before and after the job does.
            if (ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) {
                call(function, task);
                done_.fetch_add(1, std::memory_order_release);
                return true;
            }
        }
    }

    void work() {
        while (!stopping_.load(std::memory_order_relaxed)) {
            if (claim()) continue;
            const uint64_t seen = ticket_.load();
            int spins = 0;
            while (ticket_.load(std::memory_order_relaxed) == seen && ++spins < kSpins) _mm_pause();
            if (spins < kSpins || stopping_.load()) continue;
            num_sleeping_.fetch_add(1);
            ticket_.wait(seen);
            num_sleeping_.fetch_sub(1);
        }
    }

    void wake() { ticket_.notify_all(); }

    alignas(64) std::atomic<uint64_t> ticket_{kClosed};  // epoch of the job, and its next task
    alignas(64) std::atomic<int64_t> done_{0};
    alignas(64) std::atomic<void (*)(const void*, int64_t)> call_{nullptr};
    std::atomic<const void*> function_{nullptr};
    std::atomic<uint32_t> count_{0};
    std::atomic<int> num_sleeping_{0};
    std::atomic<bool> stopping_{false};
    uint32_t epoch_ = 0;
    Memory scratch_[static_cast<int>(Scratch::kCount)];
    std::vector<std::thread> workers_;
};
