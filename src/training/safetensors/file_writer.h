// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "native/posix/file_system.h"
#include "training/safetensors/header.h"

namespace lockstep::training {

/// Files are written in pieces of this size, so that the processor's cache still has what the
/// system reads next.
inline constexpr std::size_t kPieceBytes = std::size_t{1} << 20;

/// Gets one piece of a tensor's bytes, which are valid during the call.
using UsePiece = std::function<void(std::span<const std::byte>)>;

/// Where the bytes of tensors come from while a file is written.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  /// Calls `use` with the values of `tensor` in the order of its shape, piece by piece.
  virtual void read(const at::Tensor& tensor, const UsePiece& use);
};

/// Where they go.
using WritePiece = std::function<void(std::uint64_t offset, std::span<const std::byte>)>;

/// Gives the bytes of a planned file to `write`, from the first to the last. Returns their digest,
/// as `files::Digest` has it. Throws: what `source` and `write` throw.
std::string write_pieces(const PlannedFile& plan, TensorSource& source, const WritePiece& write);

/// Writes a planned file. It has its name when all of it is on the disk.
/// Throws: `c10::Error` naming the file when it cannot be written.
void write_file(const std::string& path, const PlannedFile& plan,
                native::FileSystem& files = native::FileSystem::of_machine());

}  // namespace lockstep::training
