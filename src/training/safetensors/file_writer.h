// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>

#include "native/posix/file_system.h"
#include "training/safetensors/header.h"

namespace lockstep::training {

/// Writes a planned file. It has its name when all of it is on the disk. Returns the digest of its
/// bytes, as `files::Digest` has it.
/// Throws: `c10::Error` naming the file when it cannot be written.
std::string write_file(const std::string& path, const PlannedFile& plan,
                       native::FileSystem& files = native::FileSystem::of_machine());

}  // namespace lockstep::training
