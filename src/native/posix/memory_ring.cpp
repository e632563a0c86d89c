// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/memory_ring.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <string>
#include <utility>

#include "native/posix/available_memory.h"
#include "native/posix/populate_pages.h"
#include "native/posix/posix_check.h"

namespace lockstep::native {
namespace {

std::string describe(const char* call, std::size_t bytes) {
  return "shared memory for data workers: " + std::string(call) + " failed, wanted " +
         std::to_string(bytes) + " bytes, " + std::to_string(available_memory()) +
         " bytes are free";
}

// A memfd has no size limit of its own: without this the kernel would start killing processes
// instead.
void check_available(std::size_t bytes) {
  if (bytes > available_memory()) throw_errno(describe("reservation", bytes), ENOMEM);
}

void allocate(int fd, std::size_t offset, std::size_t bytes) {
  int result = 0;
  do {  // makes the file longer where needed, and never shorter
    result = ::fallocate(fd, 0, static_cast<off_t>(offset), static_cast<off_t>(bytes));
  } while (result != 0 && errno == EINTR);
  if (result != 0) throw_errno(describe("fallocate", bytes));
}

void reserve(int fd, std::size_t offset, std::size_t bytes) {
  check_available(bytes);
  allocate(fd, offset, bytes);
}

std::byte* map(int fd, std::size_t offset, std::size_t bytes) {
  void* address =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(offset));
  if (address == MAP_FAILED) throw_errno(describe("mmap", bytes));
  return static_cast<std::byte*>(address);
}

}  // namespace

MemoryRing::MemoryRing(std::size_t control_bytes)
    : memory_(::memfd_create("lockstep-data", MFD_CLOEXEC)),
      control_bytes_(MemoryRing::round_up_to_page(control_bytes)) {
  if (!memory_.is_open()) throw_errno(describe("memfd_create", control_bytes_));
  reserve(memory_.get(), 0, control_bytes_);
  control_ = map(memory_.get(), 0, control_bytes_);
}

MemoryRing::MemoryRing(FileDescriptor descriptor) : memory_(std::move(descriptor)) {
  struct stat info {};
  std::uint64_t bytes = 0;
  if (::fstat(memory_.get(), &info) != 0) throw_errno("shared memory for data workers: fstat");
  if (::pread(memory_.get(), &bytes, sizeof(bytes), 0) != sizeof(bytes) || bytes < sizeof(bytes) ||
      bytes > static_cast<std::uint64_t>(info.st_size)) {
    throw_errno("shared memory for data workers: the inherited descriptor is something else",
                EPROTO);
  }
  control_bytes_ = round_up_to_page(bytes);
  control_ = map(memory_.get(), 0, control_bytes_);
}

MemoryRing::~MemoryRing() {
  if (std::byte* payload = payload_) ::munmap(payload, payload_bytes_);
  if (control_ != nullptr) ::munmap(control_, control_bytes_);
}

std::size_t MemoryRing::round_up_to_page(std::size_t bytes) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  if (bytes > std::numeric_limits<std::size_t>::max() - page) {
    throw_errno("shared memory for data workers: the size does not fit", ENOMEM);
  }
  return (bytes + page - 1) / page * page;
}

void MemoryRing::reserve_payload(std::size_t bytes) {
  reserve(memory_.get(), control_bytes_, round_up_to_page(bytes));
}

void MemoryRing::announce_payload(std::size_t bytes) {
  const auto size = round_up_to_page(bytes);
  check_available(size);
  // A page at the end gives the file its size, whatever lies behind it.
  const auto page = std::min(size, round_up_to_page(1));
  allocate(memory_.get(), control_bytes_ + size - page, page);
}

void MemoryRing::reserve_part(std::size_t offset, std::size_t bytes) {
  if (bytes == 0 || populate_pages(payload_ + offset, bytes)) return;
  if (errno != EINVAL) throw_errno(describe("madvise", bytes));
  // Before Linux 5.14 pages are mapped one by one as they are touched.
  reserve(memory_.get(), control_bytes_ + offset, bytes);
}

std::byte* MemoryRing::payload(std::size_t bytes) {
  if (std::byte* known = payload_) return known;
  const auto size = round_up_to_page(bytes);
  std::byte* fresh = map(memory_.get(), control_bytes_, size);
  std::byte* other = nullptr;
  if (payload_.compare_exchange_strong(other, fresh)) {
    payload_bytes_ = size;
    return fresh;
  }
  ::munmap(fresh, size);  // another thread of this process was faster
  return other;
}

void MemoryRing::reserve_piece(std::size_t payload_bytes, std::size_t offset, std::size_t bytes) {
  reserve(memory_.get(), control_bytes_ + round_up_to_page(payload_bytes) + offset,
          round_up_to_page(bytes));
}

std::byte* MemoryRing::map_piece(std::size_t payload_bytes, std::size_t offset, std::size_t bytes) {
  return map(memory_.get(), control_bytes_ + round_up_to_page(payload_bytes) + offset,
             round_up_to_page(bytes));
}

void MemoryRing::unmap_piece(std::byte* piece, std::size_t bytes) noexcept {
  ::munmap(piece, bytes);  // the kernel rounds up
}

void MemoryRing::drop_piece(std::byte* piece, std::size_t bytes) noexcept {
  ::madvise(piece, round_up_to_page(bytes), MADV_REMOVE);
  unmap_piece(piece, bytes);
}

void MemoryRing::free_piece(std::size_t payload_bytes, std::size_t offset,
                            std::size_t bytes) noexcept {
  ::fallocate(memory_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
              static_cast<off_t>(control_bytes_ + round_up_to_page(payload_bytes) + offset),
              static_cast<off_t>(round_up_to_page(bytes)));
}

}  // namespace lockstep::native
