// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/read_ring.h"

#include <fcntl.h>
#include <linux/time_types.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <thread>
#include <utility>

namespace lockstep::native {
namespace {

constexpr std::size_t kMostEntries = 4096;
constexpr std::chrono::seconds kRingPatience{2};
constexpr std::chrono::milliseconds kRingSlice{500};
constexpr std::chrono::milliseconds kRefused{1};
constexpr std::uint64_t kBlockOfDisk = 512;
// Waiting with a limit came last of what is used here.
constexpr unsigned kNeeded = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG;

int set_up(unsigned entries, io_uring_params* parameters) {
  return static_cast<int>(::syscall(SYS_io_uring_setup, entries, parameters));
}

std::atomic_ref<unsigned> word(std::byte* ring, unsigned offset) {
  return std::atomic_ref(*reinterpret_cast<unsigned*>(ring + offset));
}

}  // namespace

ReadRing::Mapping::~Mapping() {
  if (data != nullptr) ::munmap(data, size);
}

bool ReadRing::Mapping::map(int ring, std::uint64_t offset, std::size_t bytes) {
  void* address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring,
                         static_cast<off_t>(offset));
  if (address == MAP_FAILED) return false;
  data = static_cast<std::byte*>(address);
  size = bytes;
  return true;
}

ReadRing::ReadRing(std::size_t depth, std::size_t most_at_once)
    : most_at_once_(most_at_once), entries_(std::clamp<std::size_t>(depth, 1, kMostEntries)) {}

std::unique_ptr<ReadRing> ReadRing::try_make(std::size_t depth, Setup setup,
                                             std::size_t most_at_once) {
  std::unique_ptr<ReadRing> ring(new ReadRing(depth, most_at_once));
  return ring->open(setup != nullptr ? setup : &set_up) ? std::move(ring) : nullptr;
}

bool ReadRing::open(Setup setup) {
  ring_ = FileDescriptor(setup(static_cast<unsigned>(entries_.size()), &parameters_));
  if (!ring_.is_open() || (parameters_.features & kNeeded) != kNeeded) return false;
  const auto& sq = parameters_.sq_off;
  const auto& cq = parameters_.cq_off;
  const auto bytes = std::max(sq.array + parameters_.sq_entries * sizeof(unsigned),
                              cq.cqes + parameters_.cq_entries * sizeof(io_uring_cqe));
  return rings_.map(ring_.get(), IORING_OFF_SQ_RING, bytes) &&
         submissions_.map(ring_.get(), IORING_OFF_SQES,
                          parameters_.sq_entries * sizeof(io_uring_sqe)) &&
         answers();
}

// A filter of system calls may allow the set-up and forbid the use.
bool ReadRing::answers() {
  next_call().opcode = IORING_OP_NOP;
  flush();
  if (unsubmitted_ != 0) return false;
  const auto& cq = parameters_.cq_off;
  auto head = word(rings_.data, cq.head);
  const auto at = head.load(std::memory_order_relaxed);
  const auto is_there = [&] {
    return word(rings_.data, cq.tail).load(std::memory_order_acquire) != at;
  };
  const auto deadline = Deadline::after(kRingPatience);
  while (!is_there() && !deadline.has_passed()) wait(deadline);
  if (!is_there()) return false;
  head.store(at + 1, std::memory_order_release);
  return true;
}

ReadRing::~ReadRing() {
  if (!owner_.is_current() || cancel(Deadline::after(kRingPatience))) return;
  // The kernel still writes to what these requests name.
  for (auto& entry : entries_) {
    if (entry.is_in_use) leave_alone(std::move(entry));
  }
}

bool ReadRing::submit(ReadRequest request) {
  if (!owner_.is_current()) return false;
  if (in_use_ == entries_.size() && in_flight_ == 0) {  // all were cancelled, and may be over
    while (const auto number = next_finished()) static_cast<void>(give_back(entries_[*number]));
  }
  if (in_use_ == entries_.size()) return false;
  const auto free = std::find_if(entries_.begin(), entries_.end(),
                                 [](const Entry& entry) { return !entry.is_in_use; });
  free->is_open = request.file >= 0;
  free->result = {};
  free->result.tag = request.tag;
  free->request = std::move(request);
  free->is_in_use = true;
  ++in_use_;
  ++in_flight_;
  push(static_cast<std::size_t>(free - entries_.begin()));
  flush();
  return true;
}

// An empty call in the submission queue, which the next `flush` or `wait` submits. It has room:
// there are as many places as entries, and each has one call at a time.
io_uring_sqe& ReadRing::next_call() {
  const auto& sq = parameters_.sq_off;
  const auto mask = word(rings_.data, sq.ring_mask).load(std::memory_order_relaxed);
  auto tail = word(rings_.data, sq.tail);
  const auto at = tail.load(std::memory_order_relaxed);
  auto& call = reinterpret_cast<io_uring_sqe*>(submissions_.data)[at & mask];
  call = {};
  const auto place = at & mask;
  reinterpret_cast<unsigned*>(rings_.data + sq.array)[place] = place;
  tail.store(at + 1, std::memory_order_release);
  ++unsubmitted_;
  return call;
}

// Writes the next call for this entry.
void ReadRing::push(std::size_t number) {
  auto& entry = entries_[number];
  auto& call = next_call();
  call.user_data = number;
  if (entry.is_open) {
    const auto rest = entry.request.target.subspan(entry.result.bytes);
    call.opcode = IORING_OP_READ;
    call.fd = entry.opened.is_open() ? entry.opened.get() : entry.request.file;
    call.off = entry.request.offset + entry.result.bytes;
    call.addr = reinterpret_cast<std::uintptr_t>(rest.data());
    call.len = static_cast<unsigned>(std::min(rest.size(), most_at_once_));
  } else {
    call.opcode = IORING_OP_OPENAT;
    call.fd = AT_FDCWD;
    call.addr = reinterpret_cast<std::uintptr_t>(entry.request.path.c_str());
    call.open_flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY |
                      static_cast<unsigned>(entry.request.is_direct ? O_DIRECT : 0);
  }
}

// What the kernel does not take now, for lack of memory, it takes when something is reaped.
void ReadRing::flush() {
  while (unsubmitted_ != 0) {
    const auto taken = ::syscall(SYS_io_uring_enter, ring_.get(), unsubmitted_, 0, 0, nullptr, 0);
    if (taken < 0 && errno == EINTR) continue;
    if (taken <= 0) return;
    unsubmitted_ -= static_cast<unsigned>(taken);
  }
}

void ReadRing::wait(const Deadline& deadline) {
  const auto limit = std::min<std::chrono::nanoseconds>(deadline.remaining(), kRingSlice);
  __kernel_timespec time{};
  time.tv_sec = limit.count() / 1'000'000'000;
  time.tv_nsec = limit.count() % 1'000'000'000;
  io_uring_getevents_arg arguments{};
  arguments.ts = reinterpret_cast<std::uintptr_t>(&time);
  const auto taken =
      ::syscall(SYS_io_uring_enter, ring_.get(), unsubmitted_, 1,
                IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arguments, sizeof(arguments));
  if (taken > 0) unsubmitted_ -= static_cast<unsigned>(taken);
  // What it refuses it may take later, and what is under way ends all the same.
  if (taken < 0 && errno != ETIME && errno != EINTR) {
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(limit, kRefused));
  }
}

// Takes completions until one ends its request; the calls that follow from the others are made.
std::optional<std::size_t> ReadRing::next_finished() {
  const auto& cq = parameters_.cq_off;
  const auto mask = word(rings_.data, cq.ring_mask).load(std::memory_order_relaxed);
  auto head = word(rings_.data, cq.head);
  std::optional<std::size_t> finished;
  while (!finished) {
    const auto at = head.load(std::memory_order_relaxed);
    if (at == word(rings_.data, cq.tail).load(std::memory_order_acquire)) break;
    const auto& completion = reinterpret_cast<io_uring_cqe*>(rings_.data + cq.cqes)[at & mask];
    const auto number = static_cast<std::size_t>(completion.user_data);
    const int outcome = completion.res;
    head.store(at + 1, std::memory_order_release);
    auto& entry = entries_[number];
    // In this order: a file that has been opened belongs to the entry, also to one that was
    // cancelled. Of the latter nothing more is read.
    if (is_finished(entry, outcome) || entry.is_forgotten) {
      finished = number;
    } else {
      push(number);
    }
  }
  flush();
  return finished;
}

// For a file that the caller has opened so that nothing waits for the disk.
int ReadRing::read_here(const Entry& entry) {
  const auto rest = entry.request.target.subspan(entry.result.bytes);
  const int file = entry.opened.is_open() ? entry.opened.get() : entry.request.file;
  for (;;) {
    const auto got = ::pread(file, rest.data(), std::min<std::size_t>(rest.size(), INT_MAX),
                             static_cast<off_t>(entry.request.offset + entry.result.bytes));
    if (got >= 0) return static_cast<int>(got);
    if (errno != EINTR) return -errno;
  }
}

// What one call has brought; false where the request needs another.
bool ReadRing::is_finished(Entry& entry, int outcome) {
  if (outcome == -EINTR) return false;
  if (outcome == -EAGAIN && entry.is_open && !entry.is_forgotten) outcome = read_here(entry);
  if (outcome < 0 && is_end_of_direct(entry.request, entry.result, -outcome)) return true;
  if (outcome < 0) {
    entry.result.error = -outcome;
    return true;
  }
  if (!entry.is_open) {
    entry.opened = FileDescriptor(outcome);
    entry.is_open = true;
    // It was for a pipe, which opening would wait for; a read with it asks the page cache alone.
    ::fcntl(outcome, F_SETFL, entry.request.is_direct ? O_DIRECT : 0);
    return entry.request.target.empty();
  }
  entry.result.bytes += static_cast<std::size_t>(outcome);
  const bool is_whole = entry.result.bytes == entry.request.target.size();
  const bool is_cut =
      entry.request.is_direct && (entry.request.offset + entry.result.bytes) % kBlockOfDisk != 0;
  return outcome == 0 || is_whole || is_cut;
}

std::optional<ReadResult> ReadRing::reap(const Deadline& deadline) {
  if (!owner_.is_current()) return std::nullopt;
  while (in_flight_ != 0) {
    if (const auto number = next_finished()) {
      if (const auto result = give_back(entries_[*number])) return result;
      continue;
    }
    if (deadline.has_passed()) break;
    wait(deadline);
  }
  return std::nullopt;
}

// The entry is free again. Nothing for one that was cancelled.
std::optional<ReadResult> ReadRing::give_back(Entry& entry) {
  entry.opened.reset();
  entry.is_in_use = false;
  --in_use_;
  if (std::exchange(entry.is_forgotten, false)) return std::nullopt;
  --in_flight_;
  return entry.result;
}

// A read call of an ordinary file runs to its end, whatever is asked of the kernel.
bool ReadRing::cancel(const Deadline& deadline) {
  if (!owner_.is_current()) return true;
  for (auto& entry : entries_) entry.is_forgotten = entry.is_in_use;
  in_flight_ = 0;
  while (in_use_ != 0) {
    if (const auto number = next_finished()) {
      static_cast<void>(give_back(entries_[*number]));
      continue;
    }
    if (deadline.has_passed()) return false;
    wait(deadline);
  }
  return true;
}

}  // namespace lockstep::native
