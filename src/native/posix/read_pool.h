// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "native/posix/file_system.h"
#include "native/posix/owning_process.h"
#include "native/posix/read_engine.h"

namespace lockstep::native {

/// Threads that read, each one request at a time. They begin when they are needed, and take no
/// signals: these are the program's.
///
/// Owns: the threads. One that a disk keeps for longer than the destructor waits is left alone with
/// what it uses.
class ReadPool final : public ReadEngine {
 public:
  /// `files` must outlive the threads.
  ReadPool(std::size_t depth, std::size_t threads, FileSystem& files = FileSystem::of_machine());
  ~ReadPool() override;

  [[nodiscard]] const char* name() const noexcept override { return "pread"; }
  [[nodiscard]] std::size_t capacity() const noexcept override { return depth_; }
  [[nodiscard]] std::size_t in_flight() const noexcept override { return in_flight_; }
  [[nodiscard]] bool submit(ReadRequest request) override;
  [[nodiscard]] std::optional<ReadResult> reap(const Deadline& deadline) override;
  [[nodiscard]] bool cancel(const Deadline& deadline) override;

  /// Brings a part of an ordinary file into the page cache, for whoever reads it next; `bytes` may
  /// go beyond the end. Result: as for a request.
  [[nodiscard]] bool warm(std::uint64_t tag, std::string path, std::uint64_t offset,
                          std::uint64_t bytes);

  /// Threads that have begun.
  [[nodiscard]] std::size_t threads() const;

 private:
  struct Job;
  struct Shared;
  class Reader;

  [[nodiscard]] bool put(Job job);
  void begin_thread();

  OwningProcess owner_;
  std::size_t depth_;
  std::size_t most_threads_;
  std::size_t in_flight_ = 0;
  std::shared_ptr<Shared> shared_;
};

}  // namespace lockstep::native
