"""A Qwen3 checkpoint as a GGUF file, as llama.cpp reads it; without a vocabulary.

Matrices become BF16, Q8_0 or Q4_0, norms float32. llama.cpp's own conversion differs in int4 alone,
where it leaves the output layer in more bits, which is slower.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

_TYPES = {
    "bf16": gguf.GGMLQuantizationType.BF16,
    "int8": gguf.GGMLQuantizationType.Q8_0,
    "int4": gguf.GGMLQuantizationType.Q4_0,
}


def gguf_file(folder: Path, weight_format: str, cache: Path) -> Path:
    """The file of a checkpoint's folder, written now where the cache lacks it."""
    path = cache / f"{weight_format}.gguf"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        _write(folder, _TYPES[weight_format], unfinished)
        unfinished.replace(path)
    return path


def _write(folder: Path, matrix_type: gguf.GGMLQuantizationType, path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.QWEN3])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config["num_hidden_layers"])
    for name, values in _tensors(folder / "model.safetensors"):
        target = names.get_name(name, try_suffixes=(".weight",))
        if values.ndim == 1:
            writer.add_tensor(target, values)
        else:
            data = gguf.quants.quantize(values, matrix_type)
            writer.add_tensor(target, data, raw_dtype=matrix_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(path: Path) -> Iterator[tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]]:
    """Names and values of a safetensors file that holds bf16 alone.

    The file is 8 bytes of header length, the header as JSON, and the values; a bf16 is the upper
    half of a float32.
    """
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            halves = np.fromfile(path, np.uint16, (end - begin) // 2, offset=start + begin)
            values = (halves.astype(np.uint32) << 16).view(np.float32)
            yield name, values.reshape(entry["shape"])
