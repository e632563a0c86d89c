// SPDX-License-Identifier: BSD-3-Clause
#include "training/tensorboard/event_folder.h"

#include <c10/util/Exception.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <span>
#include <system_error>

#include "native/posix/atomic_file.h"
#include "native/posix/file_tree.h"
#include "native/posix/host_name.h"
#include "native/posix/posix_check.h"

namespace lockstep::training {
namespace {

constexpr std::string_view kPrefix = "events.out.tfevents.";
constexpr mode_t kEventFileMode =
    0666;                            // and what the umask leaves of it: others may look at a run
constexpr int kMostNames = 1000;     // of this process in one second
constexpr std::size_t kDigits = 10;  // of a time: names are compared as texts
constexpr std::int64_t kLastTime = 9'999'999'999;

/// The time in the name of an event file; 0: it is none.
std::int64_t time_in(const std::string& name) {
  if (!name.starts_with(kPrefix)) return 0;
  std::int64_t time = 0;
  std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), time);
  return time > 0 && time < kLastTime ? time : 0;
}

/// After the newest file that is there, also where the clock was set back, and where a run starts
/// again in the same second: its process id may be the smaller one.
std::int64_t next_time(const std::string& folder) {
  const auto now = std::chrono::duration_cast<std::chrono::seconds>(
      std::chrono::system_clock::now().time_since_epoch());
  std::int64_t time = now.count();
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    time = std::max(time, time_in(entry->path().filename().string()) + 1);
  }
  TORCH_CHECK(!error, "TensorBoard: ", folder, ": cannot be listed: ", error.message());
  return time;
}

NewEventFile make_file(const std::string& folder, std::string_view suffix,
                       native::FileSystem& files) {
  const std::int64_t time = next_time(folder);
  for (int number = 0;; ++number) {
    const std::string digits = std::to_string(time);
    std::string path = folder;
    path += '/';
    path += kPrefix;
    path.append(kDigits - std::min(kDigits, digits.size()), '0');
    path += digits;
    path += '.';
    path += native::host_name();
    path += '.';
    path += std::to_string(::getpid());
    path += '.';
    path += std::to_string(number);
    path += suffix;
    constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC | O_NOFOLLOW;
    native::FileDescriptor file(files.open(path, kFlags, kEventFileMode));
    if (file.is_open()) return {std::move(path), std::move(file)};
    if (errno != EEXIST || number == kMostNames) native::throw_errno(path + ": cannot be made");
  }
}

}  // namespace

NewEventFile make_event_file(const std::string& folder, std::string_view suffix,
                             std::string_view begin, native::FileSystem& files) {
  try {
    native::make_folders(folder, files);
    NewEventFile file = make_file(folder, suffix, files);
    try {
      native::write_all(files, file.descriptor, 0, std::as_bytes(std::span(begin)), file.path);
    } catch (...) {
      files.remove(file.path);
      throw;
    }
    return file;
  } catch (const std::system_error& error) {
    TORCH_CHECK(false, "TensorBoard: ", error.what());
  }
}

}  // namespace lockstep::training
