// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>
#include <string_view>

#include "native/posix/file_descriptor.h"
#include "native/posix/file_system.h"

namespace lockstep::training {

/// A file that nobody else writes to.
struct NewEventFile {
  std::string path;
  native::FileDescriptor descriptor;
};

/// Makes the folder, and in it a file whose name comes after those of all event files there:
/// readers follow the files of a run in the order of their names. Writes `begin` to it.
/// `folder`: absolute.
/// Throws: `c10::Error` naming the folder or the file.
[[nodiscard]] NewEventFile make_event_file(const std::string& folder, std::string_view suffix,
                                           std::string_view begin, native::FileSystem& files);

}  // namespace lockstep::training
