// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>

#include "native/posix/populate_pages.h"
#include "native/posix/posix_check.h"

namespace lockstep::native {
namespace {

std::string random_name() {
  std::array<std::uint64_t, 2> bits{};
  if (::getrandom(bits.data(), sizeof(bits), 0) != static_cast<ssize_t>(sizeof(bits))) {
    throw_errno("getrandom");
  }
  std::array<char, 64> name{};
  std::snprintf(name.data(), name.size(), "/lockstep-%016llx%016llx",
                static_cast<unsigned long long>(bits[0]), static_cast<unsigned long long>(bits[1]));
  return name.data();
}

// For kernels and file systems that make no file without a name. SIGKILL between the two calls
// leaves the name.
FileDescriptor create_and_unlink() {
  const std::string name = random_name();
  FileDescriptor descriptor(::shm_open(name.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600));
  if (!descriptor.is_open()) throw_errno("shm_open of " + name);
  if (::shm_unlink(name.c_str()) != 0) throw_errno("shm_unlink of " + name);
  return descriptor;
}

// Peers get the descriptor itself, so that there need not be a name at any moment, whatever kills
// the process.
FileDescriptor create_unnamed() {
  FileDescriptor descriptor(::open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  // Whatever failed: if the reason is no lack of such files, shm_open fails, too, and is reported.
  if (!descriptor.is_open()) return create_and_unlink();
  return descriptor;
}

[[noreturn]] void throw_no_room(int descriptor, std::size_t bytes, int error) {
  struct statvfs room {};
  std::string text = "no room in /dev/shm: " + std::to_string(bytes) + " bytes wanted";
  if (::fstatvfs(descriptor, &room) == 0) {
    text += ", " + std::to_string(room.f_bavail * room.f_frsize) + " free";
  }
  throw_errno(text, error);
}

}  // namespace

SharedMemory::SharedMemory(FileDescriptor descriptor, std::size_t bytes)
    : descriptor_(std::move(descriptor)), size_(bytes) {
  void* address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_.get(), 0);
  if (address == MAP_FAILED) throw_errno("mmap of " + std::to_string(bytes) + " shared bytes");
  data_ = static_cast<std::byte*>(address);
  // Children (data workers, a user's fork) have no business here, and must not keep the memory
  // alive.
  ::madvise(address, bytes, MADV_DONTFORK);
}

void SharedMemory::populate() noexcept {
  static_cast<void>(populate_pages(data_, size_));  // an old kernel maps pages at their first use
}

SharedMemory::~SharedMemory() {
  // At this address a fork may have something else by now.
  if (!owner_.is_current()) return;
  ::munmap(data_, size_);
}

std::shared_ptr<SharedMemory> SharedMemory::create(std::size_t bytes) {
  FileDescriptor descriptor = create_unnamed();
  // Asking first: fallocate on a tmpfs without limit would take memory until the system kills
  // somebody.
  struct statvfs room {};
  if (::fstatvfs(descriptor.get(), &room) == 0 && room.f_blocks != 0 &&
      bytes > room.f_bavail * room.f_frsize) {
    throw_no_room(descriptor.get(), bytes, ENOSPC);
  }
  int error = EINTR;
  while (error == EINTR) {  // a signal that somebody handles
    error = ::posix_fallocate(descriptor.get(), 0, static_cast<off_t>(bytes));
  }
  if (error != 0) throw_no_room(descriptor.get(), bytes, error);
  return std::shared_ptr<SharedMemory>(new SharedMemory(std::move(descriptor), bytes));
}

std::shared_ptr<SharedMemory> SharedMemory::map(FileDescriptor descriptor, std::size_t bytes) {
  struct stat status {};
  if (::fstat(descriptor.get(), &status) != 0) throw_errno("fstat of shared memory");
  if (static_cast<std::size_t>(status.st_size) != bytes) {
    throw_errno("shared memory has " + std::to_string(status.st_size) + " bytes, expected " +
                    std::to_string(bytes),
                EPROTO);
  }
  return std::shared_ptr<SharedMemory>(new SharedMemory(std::move(descriptor), bytes));
}

}  // namespace lockstep::native
