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

/// False, and `errno`: it failed. Where the user may only write, or the filesystem has no such
/// call, nothing can be done.
bool try_sync_folder(const std::string& path, FileSystem& files) {
  const FileDescriptor folder(files.open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0));
  if (!folder.is_open()) return errno == EACCES;
  return files.sync(folder.get()) == 0 || errno == EINVAL;
}

}  // namespace

AtomicFile::AtomicFile(std::string path, Kind kind, FileSystem& files)
    : files_(files), path_(std::move(path)), folder_(folder_of(path_)) {
  if (kind == Kind::Nameless) {
    file_ = FileDescriptor(files_.open(folder_, O_TMPFILE | O_WRONLY | O_CLOEXEC, kMode));
    if (file_.is_open()) return;
    // These two mean that the filesystem, or the kernel, has no files without a name.
    if (errno != EOPNOTSUPP && errno != EISDIR) throw_errno(path_ + ": cannot be made");
  }
  auto name = random_name();
  file_ = FileDescriptor(
      files_.open(name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, kMode));
  if (!file_.is_open()) throw_errno(path_ + ": cannot be made");
  temporary_ = std::move(name);
}

AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) files_.remove(temporary_);
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

void AtomicFile::reserve(std::uint64_t bytes) {
  reserve_all(files_, file_, bytes, path_);
}

void AtomicFile::write(std::uint64_t offset, std::span<const std::byte> bytes) {
  write_all(files_, file_, offset, bytes, path_);
}

void AtomicFile::sync() {
  if (files_.sync(file_.get()) != 0) throw_errno(path_ + ": cannot be written to the disk");
}

void AtomicFile::publish(Survives what) {
  if (what == Survives::PowerCut) sync();
  if (temporary_.empty()) {
    // link() replaces nothing, rename() does.
    auto random = random_name();
    if (files_.name(file_.get(), random) != 0) {
      throw_errno(path_ + ": cannot be given its name");
    }
    temporary_ = std::move(random);
  }
  if (files_.rename(temporary_, path_) != 0) {
    throw_errno(path_ + ": cannot be given its name");
  }
  temporary_.clear();
  file_.reset();
  // The name, too, must survive a power cut.
  if (what == Survives::PowerCut && !try_sync_folder(folder_, files_)) {
    throw_errno(path_ + ": has its name, which cannot be written to the disk");
  }
}

void write_atomically(const std::string& path, std::string_view text, FileSystem& files,
                      AtomicFile::Survives what) {
  AtomicFile file(path, AtomicFile::Kind::Nameless, files);
  file.write(0, std::as_bytes(std::span(text)));
  file.publish(what);
}

void reserve_all(FileSystem& files, const FileDescriptor& file, std::uint64_t bytes,
                 const std::string& path) {
  while (bytes > 0 && files.reserve(file.get(), bytes) != 0) {
    if (errno == EINTR) continue;
    // The filesystem cannot: a full disk is found by the write then.
    if (errno == EOPNOTSUPP || errno == ENOSYS) return;
    throw_errno(path + ": there is no room for " + std::to_string(bytes) + " bytes");
  }
}

void write_all(FileSystem& files, const FileDescriptor& file, std::uint64_t offset,
               std::span<const std::byte> bytes, const std::string& path) {
  while (!bytes.empty()) {
    const auto done = files.write(file.get(), bytes, offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) throw_errno(path + ": cannot be written", done < 0 ? errno : EIO);
    offset += static_cast<std::uint64_t>(done);
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
}

void sync_folder(const std::string& path, FileSystem& files) {
  if (!try_sync_folder(path, files)) {
    throw_errno(path + ": the names in this folder cannot be written to the disk");
  }
}

void remove_durably(const std::string& path, FileSystem& files) {
  if (files.remove(path) != 0) {
    if (errno == ENOENT) return;
    throw_errno(path + ": cannot be removed");
  }
  sync_folder(folder_of(path), files);
}

}  // namespace lockstep::native
