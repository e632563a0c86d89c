// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/new_file.h"

#include <fcntl.h>

#include <utility>

#include "native/posix/atomic_file.h"
#include "native/posix/posix_check.h"

namespace lockstep::native {
namespace {

constexpr mode_t kNewFileMode = 0666;  // and what the umask leaves of it

}  // namespace

NewFile::NewFile(std::string path, FileSystem& files) : files_(&files), path_(std::move(path)) {
  file_ = FileDescriptor(
      files_->open(path_, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, kNewFileMode));
  if (!file_.is_open()) throw_errno(path_ + ": cannot be made");
}

void NewFile::reserve(std::uint64_t bytes) {
  reserve_all(*files_, file_, bytes, path_);
}

void NewFile::write(std::uint64_t offset, std::span<const std::byte> bytes) {
  write_all(*files_, file_, offset, bytes, path_);
  files_->start_writing(file_.get(), offset, bytes.size());
}

void NewFile::sync() {
  if (files_->sync(file_.get()) != 0) throw_errno(path_ + ": cannot be written to the disk");
}

}  // namespace lockstep::native
