// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/training/safetensors_header.h>

#include <memory>
#include <string>

#include "files/bounded_file.h"

namespace lockstep::training {

/// One file of tensors, whose header has been checked: each tensor lies in the file, none overlaps
/// another, and its size is that of its shape.
///
/// Thread-safety: immutable after construction.
/// Owns: the open file.
class SafetensorsFile {
 public:
  /// Throws: `c10::Error` naming the file, the place and what is wrong there.
  explicit SafetensorsFile(std::string path,
                           native::FileSystem& files = native::FileSystem::of_machine());

  [[nodiscard]] const std::string& path() const noexcept { return file_.path(); }
  [[nodiscard]] const SafetensorsHeader& header() const noexcept { return header_; }

  /// Reads one tensor into new memory of the CPU. `name`: one of the header.
  /// Throws: `c10::Error` when it cannot be read, or holds what is no value of its dtype.
  [[nodiscard]] at::Tensor read(const std::string& name) const;
  /// The same as pages of the file; a copy where the element would not be aligned.
  [[nodiscard]] at::Tensor map(const std::string& name);

 private:
  void check_values(const std::string& name, const at::Tensor& tensor) const;

  files::BoundedFile file_;
  SafetensorsHeader header_;
  std::shared_ptr<const void> mapping_;
  std::byte* mapped_ = nullptr;
};

}  // namespace lockstep::training
