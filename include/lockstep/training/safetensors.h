// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <lockstep/training/safetensors_header.h>
#include <torch/arg.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

/// @file
/// Files of named tensors in the format safetensors, which Python programs read and write with the
/// package of that name. Nothing in such a file is executed.
///
/// A file is checked as a whole before a tensor is made of it: names that appear twice, holes,
/// overlaps, sizes that do not fit the shape, and bytes behind the last tensor are errors. A size
/// that the file claims costs no memory before it was compared with the size of the file.
///
/// Thread-safety: all functions may be called by several threads.
/// Source: https://github.com/huggingface/safetensors, the format of version 0.8.

namespace lockstep::training {

/// What `save_safetensors` is told.
struct SaveSafetensorsOptions {
  /// Bytes. The tensors begin at a multiple of it, a power of 2 from 8 to 1048576. With 4096, a
  /// program can map them page by page; with 8, the file has the bytes that Python writes.
  TORCH_ARG(std::int64_t, alignment) = 8;
};

/// What `load_safetensors` is told.
struct LoadSafetensorsOptions {
  /// Whether the tensors are pages of the file, which are read when they are first used, instead of
  /// copies. Writing to them does not change the file. A process that uses them after the file was
  /// made shorter gets SIGBUS; replacing the file, as `save_safetensors` does, does no harm.
  /// Tensors whose offset is no multiple of their element's size are copied all the same.
  TORCH_ARG(bool, memory_mapped) = false;
};

/// Writes `tensors` to `path`, under that name only when all of it is on the disk: a process or a
/// machine that stops leaves the old file, or none.
///
/// Tensors of any device, layout in memory and dtype of the table in docs/checkpointing.md. Those
/// that share memory are each written whole. `metadata`: for programs; transformers wants
/// `{"format", "pt"}`.
///
/// Blocks: until the file is on the disk.
/// Throws: `c10::Error` for a tensor that the format cannot hold, a name that is not UTF-8 or
/// longer than 4096 bytes, and when the file cannot be written, a full disk for example.
LOCKSTEP_API void save_safetensors(const std::filesystem::path& path,
                                   const std::map<std::string, at::Tensor>& tensors,
                                   const std::map<std::string, std::string>& metadata = {},
                                   const SaveSafetensorsOptions& options = {});

/// Reads all tensors of a file, into memory of the CPU. `path`: a file, or the index of several,
/// `model.safetensors.index.json`, or a folder with `model.safetensors` or that index, not both.
///
/// Blocks: while it reads.
/// Throws: `c10::Error` naming the file, the place and what is wrong there.
[[nodiscard]] LOCKSTEP_API std::map<std::string, at::Tensor> load_safetensors(
    const std::filesystem::path& path, const LoadSafetensorsOptions& options = {});

/// Reads what the file says about its tensors, and none of them. `path`: of one file.
/// Throws: as `load_safetensors`.
[[nodiscard]] LOCKSTEP_API SafetensorsHeader
read_safetensors_header(const std::filesystem::path& path);

/// As `save_safetensors`, in several files of at most `max_bytes` of tensors each (a larger tensor
/// has a file for itself), `model-00001-of-00003.safetensors` and so on, and the index
/// `model.safetensors.index.json`, which is written last. All in the order of their names. Returns
/// the path of the index.
///
/// An index that is there is removed first: a save that is interrupted leaves files that cannot be
/// loaded as a whole, never some of each. Files of an older save that the new index does not name
/// stay.
/// Throws: as `save_safetensors`; and when `folder` is no folder or `max_bytes` is 0.
LOCKSTEP_API std::filesystem::path save_safetensors_shards(
    const std::filesystem::path& folder, const std::map<std::string, at::Tensor>& tensors,
    std::uint64_t max_bytes, const std::map<std::string, std::string>& metadata = {},
    const SaveSafetensorsOptions& options = {});

}  // namespace lockstep::training
