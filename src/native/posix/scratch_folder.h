// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>

namespace lockstep::native {

/// A folder with a random name that nobody else can open, for files of another library that are no
/// result yet. It goes with this object, and what is in it too; a process that is killed leaves it.
///
/// Thread-safety: none.
/// Owns: the folder.
class ScratchFolder {
 public:
  /// Makes a folder in `parent` whose name begins with `prefix`.
  /// Throws: `std::system_error` naming the parent.
  ScratchFolder(const std::string& parent, const std::string& prefix);
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

}  // namespace lockstep::native
