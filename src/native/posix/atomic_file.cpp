// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/atomic_file.h"

#include <fcntl.h>
#include <sys/random.h>

#include <array>
#include <cstdio>
#include <utility>

#include "native/posix/posix_check.h"

namespace lockstep::native {
namespace {

constexpr mode_t kMode = 0666;  // and what the umask leaves of it

std::string folder_of(const std::string& path) {
  const auto slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

AtomicFile::AtomicFile(std::string path, Kind kind)
    : path_(std::move(path)), folder_(folder_of(path_)) {
  if (kind == Kind::Nameless) {
    file_ = FileDescriptor(::open(folder_.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, kMode));
    if (file_.is_open()) return;
    // These two mean that the filesystem, or the kernel, has no files without a name.
    if (errno != EOPNOTSUPP && errno != EISDIR) throw_errno(path_ + ": cannot be made");
  }
  auto name = random_name();
  file_ = FileDescriptor(
      ::open(name.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, kMode));
  if (!file_.is_open()) throw_errno(path_ + ": cannot be made");
  temporary_ = std::move(name);
}

AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

std::string AtomicFile::random_name() const {
  std::uint64_t number = 0;
  if (::getrandom(&number, sizeof(number), 0) != sizeof(number)) {
    throw_errno(path_ + ": no random name can be had");
  }
  std::array<char, 17> digits{};
  std::snprintf(digits.data(), digits.size(), "%016llx", static_cast<unsigned long long>(number));
  return path_ + "." + digits.data() + ".tmp";
}

void AtomicFile::write(std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto done = ::pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (done < 0) {
      if (errno == EINTR) continue;
      throw_errno(path_ + ": cannot be written");
    }
    offset += static_cast<std::uint64_t>(done);
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
}

void AtomicFile::publish() {
  if (::fsync(file_.get()) != 0) throw_errno(path_ + ": cannot be written to the disk");
  if (temporary_.empty()) {
    // link() replaces nothing, rename() does.
    auto name = random_name();
    const auto self = "/proc/self/fd/" + std::to_string(file_.get());
    if (::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) != 0) {
      throw_errno(path_ + ": cannot be given its name");
    }
    temporary_ = std::move(name);
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    throw_errno(path_ + ": cannot be given its name");
  }
  temporary_.clear();
  file_.reset();
  // The name, too, must survive a power cut.
  const FileDescriptor folder(::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.is_open()) ::fsync(folder.get());
}

}  // namespace lockstep::native
