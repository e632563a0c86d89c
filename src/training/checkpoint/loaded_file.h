// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

#include "native/posix/file_system.h"
#include "training/checkpoint/manifest.h"

namespace lockstep::training {

/// A file of tensors in memory, with the bytes that the manifest says: the bytes that were compared
/// are those that are used. Each tensor has memory of its own, and whoever loads it may keep it.
///
/// Thread-safety: immutable after construction.
class LoadedFile {
 public:
  /// Throws: `c10::Error` naming the file where it is another one.
  LoadedFile(const std::filesystem::path& path, const FileDigest& expected,
             native::FileSystem& files);

  [[nodiscard]] const std::map<std::string, std::string>& texts() const noexcept { return texts_; }
  [[nodiscard]] const std::map<std::string, at::Tensor>& tensors() const noexcept {
    return tensors_;
  }

 private:
  std::map<std::string, std::string> texts_;
  std::map<std::string, at::Tensor> tensors_;
};

}  // namespace lockstep::training
