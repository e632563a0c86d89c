// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>
#include <system_error>

#include "native/posix/file_system.h"

namespace lockstep::native {

/// Makes a folder, and the folders above it that are missing. When it returns, the names of all of
/// them are on the disk, also of those that a process has made that was killed in here.
/// Throws: `std::system_error` naming the folder.
void make_folders(const std::string& path, FileSystem& files = FileSystem::of_machine());

/// Removes a file, or a folder with all that is in it; a symbolic link is removed, and what it
/// leads to stays. Goes on where something cannot be removed. Returns the first error; not there:
/// none.
[[nodiscard]] std::error_code remove_tree(const std::string& path,
                                          FileSystem& files = FileSystem::of_machine());

}  // namespace lockstep::native
