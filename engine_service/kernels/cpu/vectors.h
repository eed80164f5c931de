// Sixteen float32 at a time: bfloat16 in memory, and exp.

#pragma once

#include <cstdint>

#include <immintrin.h>

using bf16 = uint16_t;

inline __m512 load_bf16(const bf16* source) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

inline __m256i to_bf16(__m512 values) {
    return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values));
}

inline void store_bf16(bf16* target, __m512 values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), to_bf16(values));
}

inline void store_bf16(bf16* target, __m512 values, __mmask16 mask) {
    _mm256_mask_storeu_epi16(target, mask, to_bf16(values));
}

inline float bf16_to_float(bf16 value) {
    const uint32_t bits = static_cast<uint32_t>(value) << 16;
    float result;
    __builtin_memcpy(&result, &bits, sizeof result);
    return result;
}

// dot products of pairs: sums[i] + a[2i] b[2i] + a[2i + 1] b[2i + 1]
inline __m512 dot_bf16(__m512 sums, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sums, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

// sums[i] + dot product of the four unsigned bytes a[4i] … and the four signed bytes b[4i] …
// Not the intrinsic: with it, GCC 12 copies every accumulator between vector types.
inline __m512i dot_int8(__m512i sums, __m512i a, __m512i b) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
    return sums;
}

// e^x to within 2 units in the last place; 0 below -87.3, where float32 has no normal numbers. NaN
// stays NaN.
inline __m512 exp_ps(__m512 x) {
    const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.3f), _CMP_NLT_UQ);
    const __m512 turns = _mm512_roundscale_ps(
        _mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), _MM_FROUND_TO_NEAREST_INT);
    // x - turns * ln 2, in two parts (Cody and Waite)
    __m512 rest = _mm512_fnmadd_ps(turns, _mm512_set1_ps(0.693359375f), x);
    rest = _mm512_fnmadd_ps(turns, _mm512_set1_ps(-2.12194440e-4f), rest);
    __m512 sum = _mm512_set1_ps(1.3981999507e-3f);
    for (const float coefficient :
         {8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f, 1.0f, 1.0f})
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(coefficient));
    return _mm512_maskz_scalef_ps(normal, sum, turns);
}
