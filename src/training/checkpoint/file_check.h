// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <filesystem>

#include "native/posix/file_system.h"
#include "training/checkpoint/manifest.h"

namespace lockstep::training {

/// Reads a file and compares it with what was written.
/// Throws: `c10::Error` naming the file where it is another one.
void check_digest(const std::filesystem::path& path, const FileDigest& expected,
                  native::FileSystem& files = native::FileSystem::of_machine());

}  // namespace lockstep::training
