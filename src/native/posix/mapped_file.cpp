// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "native/posix/posix_check.h"

namespace lockstep::native {

namespace {

FileDescriptor open(const std::string& path) {
  // Nonblocking: opening a pipe that nobody writes to would wait.
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.is_open()) throw_errno(path + ": cannot be opened");
  return file;
}

}  // namespace

MappedFile::MappedFile(const std::string& path, Access access)
    : MappedFile(open(path), path, access) {}

MappedFile::MappedFile(const FileDescriptor& file, const std::string& path, Access access) {
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) throw_errno(path + ": cannot be examined");
  if (!S_ISREG(info.st_mode)) throw_errno(path + ": is not an ordinary file", EINVAL);
  size_ = static_cast<std::size_t>(info.st_size);
  modified_ns_ = std::int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
  if (size_ == 0) return;
  const bool is_copied = access == Access::CopiedOnWrite;
  void* address = ::mmap(nullptr, size_, is_copied ? PROT_READ | PROT_WRITE : PROT_READ,
                         is_copied ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED, file.get(), 0);
  if (address == MAP_FAILED) throw_errno(path + ": cannot be mapped");
  data_ = static_cast<std::byte*>(address);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

}  // namespace lockstep::native
