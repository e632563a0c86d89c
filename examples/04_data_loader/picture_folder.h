// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/lockstep.h>

#include <filesystem>
#include <string>

/// The pictures that all ranks use, one folder a class. Where there are none, rank 0 draws them
/// while the others wait; ranks of several hosts need a folder that all of them see.
///
/// Owns: a temporary folder, on rank 0; it goes with the object.
class PictureFolder {
 public:
  /// `wanted` names a folder that stays: pictures are drawn into it when it is missing or empty,
  /// and used as they are otherwise. No name: a temporary folder.
  ///
  /// Collective. Throws: `std::runtime_error` on every rank when rank 0 cannot draw.
  PictureFolder(lockstep::ProcessGroup& group, const std::string& wanted, int per_class);
  ~PictureFolder();
  PictureFolder(const PictureFolder&) = delete;
  PictureFolder& operator=(const PictureFolder&) = delete;

  [[nodiscard]] std::string path() const { return path_.string(); }

 private:
  void draw(const std::string& wanted, int per_class);

  std::filesystem::path path_;
  std::filesystem::path temporary_;  // to be removed; empty: none
};
