// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "concurrency/deadline.h"

namespace lockstep::native {

/// A part of a file that is wanted in memory.
struct ReadRequest {
  std::uint64_t tag = 0;        ///< the caller's own
  int file = -1;                ///< an open file; -1: the engine opens and closes `path`
  std::string path;             ///< also for messages
  std::uint64_t offset = 0;     ///< of the first byte
  std::span<std::byte> target;  ///< the engine's until the request has been reaped
  /// The page cache is passed by (O_DIRECT): offset and target are multiples of the disk's blocks.
  bool is_direct = false;
};

/// What became of a request.
struct ReadResult {
  std::uint64_t tag = 0;
  std::size_t bytes = 0;  ///< fewer than the target has: the file ends there
  int error = 0;          ///< `errno` of the call that failed; then `bytes` are there all the same
  bool was_cached = false;  ///< for `ReadPool::warm`: nothing had to be read
};

/// Reads parts of files with many requests in flight: short reads go on, EINTR is repeated, and
/// holes are zeros. `ReadPool` calls pread in threads, `ReadRing` uses io_uring.
///
/// An engine belongs to the process that made it: in a fork, it accepts nothing and gives nothing.
/// So a worker makes its own.
///
/// Thread-safety: none; one thread uses an engine.
class ReadEngine {
 public:
  ReadEngine() = default;
  /// Blocks: as `cancel` with a limit of 2 s. What is under way then, on a disk that does not
  /// answer, is left alone, and so must its memory be.
  virtual ~ReadEngine() = default;
  ReadEngine(const ReadEngine&) = delete;
  ReadEngine& operator=(const ReadEngine&) = delete;

  [[nodiscard]] virtual const char* name() const noexcept = 0;
  /// The most requests in flight.
  [[nodiscard]] virtual std::size_t capacity() const noexcept = 0;
  /// Requests that were submitted and neither reaped nor cancelled.
  [[nodiscard]] virtual std::size_t in_flight() const noexcept = 0;
  /// False when there are as many in flight as may be; what `cancel` has left under way counts.
  /// Throws: `std::system_error` when there is no thread that could read.
  [[nodiscard]] virtual bool submit(ReadRequest request) = 0;
  /// One that is finished, in any order. Nothing when none is in flight, or none finished in time.
  [[nodiscard]] virtual std::optional<ReadResult> reap(const Deadline& deadline) = 0;
  /// Forgets all requests. False when some are under way at the deadline: then their memory and
  /// their files must stay as they are.
  /// Blocks: for what is under way, until the deadline.
  [[nodiscard]] virtual bool cancel(const Deadline& deadline) = 0;
};

/// Whether this error of a direct read says no more than that the file has ended: after what was
/// read, a disk of large blocks refuses to go on.
[[nodiscard]] bool is_end_of_direct(const ReadRequest& request, const ReadResult& result,
                                    int error) noexcept;

/// Throws: `std::system_error` that names the file, where the result is an error.
void throw_if_failed(const ReadResult& result, const std::string& path);

}  // namespace lockstep::native
