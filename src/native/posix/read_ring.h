// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <linux/io_uring.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "native/posix/file_descriptor.h"
#include "native/posix/owning_process.h"
#include "native/posix/read_engine.h"

namespace lockstep::native {

/// Requests in a ring of io_uring, by system calls of our own: submission and completion queues
/// that the kernel and this process share.
///
/// Owns: the ring and its mappings. Where something is under way for longer than the destructor
/// waits, what the request names is left alone.
/// Source: io_uring(7), io_uring_setup(2) and io_uring_enter(2) of Linux 6.1.
class ReadRing final : public ReadEngine {
 public:
  /// As io_uring_setup(2); for tests.
  using Setup = int (*)(unsigned entries, io_uring_params* parameters);

  /// Nothing where the kernel has no io_uring, or one that is too old (before 5.11), or does not
  /// let this process use it: an empty call goes through it first. `most_at_once`: bytes that one
  /// read asks for; for tests.
  [[nodiscard]] static std::unique_ptr<ReadRing> try_make(std::size_t depth, Setup setup = nullptr,
                                                          std::size_t most_at_once = std::size_t{1}
                                                                                     << 30);
  ~ReadRing() override;

  [[nodiscard]] const char* name() const noexcept override { return "io_uring"; }
  [[nodiscard]] std::size_t capacity() const noexcept override { return entries_.size(); }
  [[nodiscard]] std::size_t in_flight() const noexcept override { return in_flight_; }
  [[nodiscard]] bool submit(ReadRequest request) override;
  [[nodiscard]] std::optional<ReadResult> reap(const Deadline& deadline) override;
  [[nodiscard]] bool cancel(const Deadline& deadline) override;

 private:
  struct Mapping {
    Mapping() = default;
    ~Mapping();
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    [[nodiscard]] bool map(int ring, std::uint64_t offset, std::size_t bytes);
    std::byte* data = nullptr;
    std::size_t size = 0;
  };
  struct Entry {
    ReadRequest request;
    ReadResult result;
    FileDescriptor opened;
    bool is_in_use = false;
    bool is_open = false;       // otherwise the file is being opened
    bool is_forgotten = false;  // it was cancelled while the kernel was at it
  };

  ReadRing(std::size_t depth, std::size_t most_at_once);
  [[nodiscard]] bool open(Setup setup);
  [[nodiscard]] bool answers();
  io_uring_sqe& next_call();
  void push(std::size_t entry);
  void flush();
  void wait(const Deadline& deadline);
  [[nodiscard]] std::optional<std::size_t> next_finished();
  [[nodiscard]] static bool is_finished(Entry& entry, int outcome);
  [[nodiscard]] static int read_here(const Entry& entry);
  [[nodiscard]] std::optional<ReadResult> give_back(Entry& entry);

  OwningProcess owner_;
  std::size_t most_at_once_;
  std::vector<Entry> entries_;
  std::size_t in_flight_ = 0;  // to the caller's knowledge
  std::size_t in_use_ = 0;     // entries, with those that were cancelled
  unsigned unsubmitted_ = 0;
  FileDescriptor ring_;
  Mapping rings_;
  Mapping submissions_;
  io_uring_params parameters_{};
};

}  // namespace lockstep::native
