// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/Stream.h>
#include <lockstep/core/export.h>
#include <lockstep/data/loader/detail/loader_engine.h>

#include <cstdint>
#include <memory>

namespace lockstep::data::detail {

/// Gives an engine's batches on a device; the next one is copied while the program works on one. On
/// the CPU it gives the engine's batches, and nothing more.
///
/// Thread-safety: none. Owns: the batch that is ahead.
class LOCKSTEP_API DeviceFeed {
 public:
  /// Throws: `c10::Error` when there is no such device.
  DeviceFeed(LoaderEngine& engine, c10::Device device);
  ~DeviceFeed();
  DeviceFeed(const DeviceFeed&) = delete;
  DeviceFeed& operator=(const DeviceFeed&) = delete;

  [[nodiscard]] c10::Device device() const noexcept { return device_; }
  /// Forgets the batch that is ahead.
  void restart();
  [[nodiscard]] std::uint64_t pass_id() const noexcept { return engine_.pass_id(); }
  /// Blocks: as the engine's.
  [[nodiscard]] bool has_next();
  /// The current stream waits for the copies; the calling thread waits for no device.
  /// Blocks: as the engine's.
  /// Throws: `WorkerError`; what the copies throw.
  [[nodiscard]] SampleTree next();

 private:
  struct Copied;
  /// `is_ahead`: the program has a batch to work on meanwhile.
  [[nodiscard]] Copied copy_next(bool is_ahead);
  /// Copies a pinned tensor into memory of the consumer's.
  [[nodiscard]] at::Tensor place(const at::Tensor& tensor, const c10::Stream& consumer,
                                 const c10::Stream& stream, Copied& result) const;
  void hand_over(Copied& batch) const;

  LoaderEngine& engine_;
  c10::Device device_;
  bool copies_;
  std::unique_ptr<Copied> ahead_;
};

}  // namespace lockstep::data::detail
