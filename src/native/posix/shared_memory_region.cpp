// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/shared_memory_region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "native/posix/available_memory.h"
#include "native/posix/page_size.h"
#include "native/posix/populate_pages.h"
#include "native/posix/posix_check.h"

namespace lockstep::native {
namespace {

// A look at the memory that is left costs dozens of system calls. Until the next one, each process
// may take this much in small blocks, and this part of what was left.
constexpr std::size_t kSmall = std::size_t{1} << 20;
constexpr std::size_t kBetweenLooks = std::size_t{64} << 20;
constexpr std::size_t kPartBetweenLooks = 256;

std::string describe(const char* call, std::size_t bytes) {
  return "shared memory for data workers: " + std::string(call) + " failed, wanted " +
         std::to_string(bytes) + " bytes, " + std::to_string(available_memory()) +
         " bytes are free";
}

// A memfd has no size limit of its own: without this the kernel would start killing processes
// instead.
std::size_t check_available(std::size_t bytes) {
  const auto available = available_memory();
  if (bytes > available) throw_errno(describe("reservation", bytes), ENOMEM);
  return available;
}

void allocate(int fd, std::size_t offset, std::size_t bytes) {
  int result = 0;
  do {  // makes the file longer where needed, and never shorter
    result = ::fallocate(fd, 0, static_cast<off_t>(offset), static_cast<off_t>(bytes));
  } while (result != 0 && errno == EINTR);
  if (result != 0) throw_errno(describe("fallocate", bytes));
}

std::byte* map_file(int fd, std::size_t offset, std::size_t bytes) {
  void* address =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(offset));
  if (address == MAP_FAILED) throw_errno(describe("mmap", bytes));
  return static_cast<std::byte*>(address);
}

}  // namespace

SharedMemoryRegion::SharedMemoryRegion(std::size_t control_bytes)
    : memory_(::memfd_create("lockstep-data", MFD_CLOEXEC)),
      control_bytes_(round_up_to_page(control_bytes)) {
  if (!memory_.is_open()) throw_errno(describe("memfd_create", control_bytes_));
  static_cast<void>(check_available(control_bytes_));
  allocate(memory_.get(), 0, control_bytes_);
  control_ = map_file(memory_.get(), 0, control_bytes_);
}

SharedMemoryRegion::SharedMemoryRegion(FileDescriptor descriptor) : memory_(std::move(descriptor)) {
  struct stat info {};
  std::uint64_t bytes = 0;
  if (::fstat(memory_.get(), &info) != 0) throw_errno("shared memory for data workers: fstat");
  if (::pread(memory_.get(), &bytes, sizeof(bytes), 0) != sizeof(bytes) || bytes < sizeof(bytes) ||
      bytes > static_cast<std::uint64_t>(info.st_size)) {
    throw_errno("shared memory for data workers: the inherited descriptor is something else",
                EPROTO);
  }
  control_bytes_ = round_up_to_page(bytes);
  control_ = map_file(memory_.get(), 0, control_bytes_);
}

SharedMemoryRegion::~SharedMemoryRegion() {
  if (std::byte* payload = payload_) ::munmap(payload, payload_bytes_);
  if (control_ != nullptr) ::munmap(control_, control_bytes_);
}

void SharedMemoryRegion::look_before_small(std::size_t bytes) {
  auto seen = seen_free_.load(std::memory_order_relaxed);
  while (bytes <= seen) {
    if (seen_free_.compare_exchange_weak(seen, seen - bytes, std::memory_order_relaxed)) return;
  }
  const auto available = check_available(bytes);
  seen_free_.store(std::min((available - bytes) / kPartBetweenLooks, kBetweenLooks),
                   std::memory_order_relaxed);
}

void SharedMemoryRegion::reserve(std::size_t offset, std::size_t bytes) {
  if (bytes <= kSmall) {
    look_before_small(bytes);
  } else {
    static_cast<void>(check_available(bytes));
  }
  allocate(memory_.get(), control_bytes_ + offset, bytes);
}

MappedBlock SharedMemoryRegion::map(std::size_t offset, std::size_t bytes) {
  return {map_file(memory_.get(), control_bytes_ + offset, bytes), bytes};
}

void SharedMemoryRegion::free(std::size_t offset, std::size_t bytes) noexcept {
  ::fallocate(memory_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
              static_cast<off_t>(control_bytes_ + offset),
              static_cast<off_t>(round_up_to_page(bytes)));
}

void SharedMemoryRegion::announce_payload(std::size_t offset, std::size_t bytes) {
  const auto size = round_up_to_page(bytes);
  static_cast<void>(check_available(size));
  // A page at the end gives the file its size, whatever lies behind it.
  const auto page = std::min(size, round_up_to_page(1));
  allocate(memory_.get(), control_bytes_ + offset + size - page, page);
}

std::byte* SharedMemoryRegion::payload(std::size_t offset, std::size_t bytes) {
  if (std::byte* known = payload_) return known;
  const auto size = round_up_to_page(bytes);
  std::byte* fresh = map_file(memory_.get(), control_bytes_ + offset, size);
  payload_offset_ = offset;  // before others can see the payload; all that come here say the same
  std::byte* other = nullptr;
  if (payload_.compare_exchange_strong(other, fresh)) {
    payload_bytes_ = size;
    return fresh;
  }
  ::munmap(fresh, size);  // another thread of this process was faster
  return other;
}

void SharedMemoryRegion::reserve_part(std::size_t offset, std::size_t bytes) {
  if (bytes == 0 || populate_pages(payload_ + offset, bytes)) return;
  if (errno != EINVAL) throw_errno(describe("madvise", bytes));
  // Before Linux 5.14 pages are mapped one by one as they are touched.
  reserve(payload_offset_ + offset, bytes);
}

}  // namespace lockstep::native
