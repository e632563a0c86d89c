// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>
#include <vector>

namespace lockstep::data {

/// Lists folders and files in the order of Python's `sorted(os.walk(...))`: folders by their path
/// as one text, files by their name.
///
/// Throws: `c10::Error` naming the folder that cannot be read and why, or the link that is refused
/// or leads back to a folder it lies in.
class FolderWalk {
 public:
  FolderWalk(std::string root, bool follows_links, std::vector<std::string> extensions);

  /// Folders directly below the root, sorted by their bytes.
  [[nodiscard]] std::vector<std::string> folders() const;
  /// Files below one of them whose names end in one of the extensions, in large or small letters;
  /// their paths from the root.
  [[nodiscard]] std::vector<std::string> files_below(const std::string& folder) const;

 private:
  std::string root_;
  bool follows_links_;
  std::vector<std::string> extensions_;
};

}  // namespace lockstep::data
