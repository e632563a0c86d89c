// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "native/posix/atomic_file.h"
#include "native/posix/file_system.h"
#include "training/safetensors/header.h"

namespace lockstep::training {

/// A file that the thread writes as a whole, in steps.
///
/// Thread-safety: the writer's thread alone calls it, once it is queued.
class FileJob {
 public:
  /// `path`: absolute and without "..".
  FileJob(std::string path, std::uint64_t bytes) : path_(std::move(path)), bytes_(bytes) {}
  virtual ~FileJob() = default;
  FileJob(const FileJob&) = delete;
  FileJob& operator=(const FileJob&) = delete;

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
  /// Of memory that it needs while it waits, about.
  [[nodiscard]] std::uint64_t cost() const noexcept { return bytes_ + 1024; }
  /// Whether it comes after those that are not.
  [[nodiscard]] virtual bool is_large() const = 0;
  /// Goes on. True: the file has its name.
  /// Throws: `std::system_error` naming the file.
  [[nodiscard]] virtual bool step(native::FileSystem& files) = 0;

  std::promise<void> promise;
  std::uint64_t position = 0;  ///< of the next line when it was queued
  std::uint64_t number = 0;    ///< of the jobs

 private:
  const std::string path_;
  const std::uint64_t bytes_;
};

/// A small file.
class TextJob final : public FileJob {
 public:
  TextJob(std::string path, std::string text)
      : FileJob(std::move(path), text.size()), text_(std::move(text)) {}

  [[nodiscard]] bool is_large() const override { return false; }
  [[nodiscard]] bool step(native::FileSystem& files) override {
    native::write_atomically(path(), text_, files);
    return true;
  }

 private:
  const std::string text_;
};

/// Copies of tensors, in memory that is kept for the next ones, since fresh memory costs several
/// times as long as the copy.
///
/// Thread-safety: any thread.
class CopyMemory {
 public:
  /// The copies lie on the CPU in the order of their shapes, without lazy conjugation; `memory` has
  /// their values until it is given back. What no file can hold is passed on as it is.
  /// Blocks: while it copies.
  [[nodiscard]] std::map<std::string, at::Tensor> copy(
      const std::map<std::string, at::Tensor>& tensors, at::Tensor& memory);
  void give_back(at::Tensor memory);

 private:
  std::mutex mutex_;
  at::Tensor spare_;  // the largest that was given back; guarded by mutex_
};

/// A file of tensors, written in pieces.
class TensorJob final : public FileJob {
 public:
  /// `memory`: of the tensors of `plan`, which lie as `CopyMemory` has them.
  TensorJob(std::string path, PlannedFile plan, at::Tensor memory,
            std::shared_ptr<CopyMemory> memories)
      : FileJob(std::move(path), plan.bytes),
        plan_(std::move(plan)),
        memory_(std::move(memory)),
        memories_(std::move(memories)) {}
  ~TensorJob() override { memories_->give_back(std::move(memory_)); }
  TensorJob(const TensorJob&) = delete;
  TensorJob& operator=(const TensorJob&) = delete;

  [[nodiscard]] bool is_large() const override { return true; }
  [[nodiscard]] bool step(native::FileSystem& files) override;

 private:
  [[nodiscard]] std::span<const std::byte> part() const;

  const PlannedFile plan_;
  at::Tensor memory_;
  const std::shared_ptr<CopyMemory> memories_;
  std::optional<native::AtomicFile> file_;
  std::size_t part_ = 0;          // 0: the header; then the tensors
  std::size_t done_ = 0;          // bytes of the part
  std::uint64_t offset_ = 0;      // in the file
  std::uint64_t since_sync_ = 0;  // bytes
};

}  // namespace lockstep::training
