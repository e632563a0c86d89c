// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/inherited_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "native/posix/file_descriptor.h"

namespace lockstep::native {
namespace {

// Descriptors of this process from `first` on, without `keep`.
std::vector<int> open_descriptors(int first, std::span<const int> keep) {
  std::vector<int> open;
  DIR* directory = ::opendir("/proc/self/fd");
  if (directory == nullptr) return open;
  while (const dirent* entry = ::readdir(directory)) {
    if (entry->d_name[0] == '.') continue;
    const int fd = std::atoi(entry->d_name);
    if (fd < first || fd == ::dirfd(directory)) continue;
    if (std::find(keep.begin(), keep.end(), fd) == keep.end()) open.push_back(fd);
  }
  ::closedir(directory);
  return open;
}

std::string link_of(int fd) {
  return "/proc/self/fd/" + std::to_string(fd);
}

bool is_file_or_folder(int fd) {
  struct stat info {};
  return ::fstat(fd, &info) == 0 && (S_ISREG(info.st_mode) || S_ISDIR(info.st_mode));
}

// What a dataset may have opened before the fork and still reads from.
bool may_belong_to_dataset(int fd) {
  if (!is_file_or_folder(fd)) return false;
  std::array<char, 256> target{};
  const auto length = ::readlink(link_of(fd).c_str(), target.data(), target.size());
  const std::string_view path(target.data(), length > 0 ? static_cast<std::size_t>(length) : 0);
  return path.substr(0, 7) != "/memfd:" && path.substr(0, 9) != "/dev/shm/";
}

bool is_read_at_a_position(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || (flags & (O_PATH | O_APPEND)) != 0) return false;
  return (flags & O_ACCMODE) != O_WRONLY && is_file_or_folder(fd);
}

enum class Hold { Nothing, Lock, Lease };

// The kernel lists the locks of this open file description, not those of others on the same file.
Hold hold_of(int fd) {
  std::ifstream info("/proc/self/fdinfo/" + std::to_string(fd));
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("lock:", 0) != 0) continue;
    if (line.find(" LEASE ") != std::string::npos) return Hold::Lease;
    // POSIX locks are the process's own: a child has none.
    if (line.find(" FLOCK ") != std::string::npos || line.find(" OFDLCK ") != std::string::npos) {
      return Hold::Lock;
    }
  }
  return Hold::Nothing;
}

// Never waits: an open that would break somebody's lease fails.
FileDescriptor open_again(int fd) {
  constexpr int kKept = O_ACCMODE | O_APPEND | O_DIRECT | O_NOATIME | O_SYNC;
  const auto link = link_of(fd);
  const int flags = (::fcntl(fd, F_GETFL) & kKept) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  FileDescriptor file(::open(link.c_str(), flags));
  if (file.is_open()) return file;
  // The rights of the file may have changed since, which a process that only reads need not notice.
  return FileDescriptor(::open(link.c_str(), (flags & ~(O_ACCMODE | O_NOATIME)) | O_RDONLY));
}

void open_again_or_close(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  const bool closes_on_exec = (::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0;
  const auto position = ::lseek(fd, 0, SEEK_CUR);
  const auto file = open_again(fd);
  const int waiting = flags & O_NONBLOCK;
  const bool is_same =
      file.is_open() &&
      ::fcntl(file.get(), F_SETFL, (::fcntl(file.get(), F_GETFL) & ~O_NONBLOCK) | waiting) == 0 &&
      (position <= 0 || ::lseek(file.get(), position, SEEK_SET) == position);
  if (!is_same || ::dup3(file.get(), fd, closes_on_exec ? O_CLOEXEC : 0) != fd) ::close(fd);
}

}  // namespace

void close_inherited_descriptors(std::span<const int> keep) {
  for (const int fd : open_descriptors(STDERR_FILENO + 1, keep)) {
    if (!may_belong_to_dataset(fd)) ::close(fd);
  }
}

void take_own_positions(std::span<const int> keep) {
  for (const int fd : open_descriptors(STDIN_FILENO, keep)) {
    if (fd == STDOUT_FILENO || fd == STDERR_FILENO) continue;
    if (is_read_at_a_position(fd)) open_again_or_close(fd);
  }
}

void leave_inherited_locks(std::span<const int> keep) {
  for (const int fd : open_descriptors(STDERR_FILENO + 1, keep)) {
    if (!is_file_or_folder(fd)) continue;
    switch (hold_of(fd)) {
      case Hold::Nothing:
        break;
      case Hold::Lock:
        open_again_or_close(fd);
        break;
      case Hold::Lease:  // to open the file would break it
        ::close(fd);
        break;
    }
  }
}

}  // namespace lockstep::native
