// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/Device.h>
#include <c10/util/Exception.h>
#include <lockstep/data/loader/detail/batch_iterator.h>
#include <lockstep/data/loader/detail/device_feed.h>

#include <cstddef>
#include <iterator>
#include <memory>

namespace lockstep::data {

/// Gives a loader's batches on a device. While the program works on one, the next is copied, on a
/// stream of its own.
///
///     for (auto& batch : data::DevicePrefetcher(loader, device)) train(batch.data, batch.target);
///
/// All tensors of a batch are on the device; strings, bytes and the structure of the batch stay as
/// they are. The next batch is copied ahead when it is ready as one is handed out, otherwise when
/// it is asked for: no iteration waits longer than the loader's own would. With
/// `DataLoaderOptions::pin_memory` the copies run while the calling thread goes on; without, each
/// keeps it waiting.
///
/// On the CPU, the batches are the loader's own: nothing is copied and nothing is taken ahead.
///
/// Batches are for the stream that is current when they are looked at. A program that uses one on
/// another stream orders the two, and calls `record_stream`, as for all tensors. `loader.state()`
/// says what the program has received: a batch that is ahead does not count. Each `begin()` starts
/// the loader's epoch over, and ends earlier loops over the loader.
///
/// Blocks: as the loader.
/// Thread-safety: as the loader.
/// Owns: at most one batch more on the device. The loader must outlive it and stay where it is.
/// Throws: as the loader, at that batch's turn, and the loop may go on; `c10::Error` when there is
/// no such device, or no memory on it, or when it has been moved from.
template <class Loader>
class DevicePrefetcher {
 public:
  /// The loader's type of a batch.
  using Batch = typename Loader::Batch;
  /// An input iterator over the batches of a pass.
  using Iterator = detail::BatchIterator<typename Loader::Codec, detail::DeviceFeed>;

  /// `device` without an index is the current one.
  DevicePrefetcher(Loader& loader, c10::Device device)
      : loader_(&loader), feed_(std::make_unique<detail::DeviceFeed>(loader.engine(), device)) {}

  /// Starts a pass of the loader. Whoever looks at a batch waits until it is there, and gets the
  /// error if there was one.
  /// Throws: `c10::Error` when this has been moved from.
  [[nodiscard]] Iterator begin() {
    feed().restart();
    return Iterator(&feed(), loader_->start_pass());
  }
  /// The end of every pass.
  [[nodiscard]] std::default_sentinel_t end() const noexcept { return std::default_sentinel; }

  /// Batches in an epoch.
  [[nodiscard]] std::size_t size() const requires requires(const Loader& loader) { loader.size(); }
  { return loader_->size(); }
  /// The device that the batches go to, with its index.
  [[nodiscard]] c10::Device device() const { return feed().device(); }

 private:
  detail::DeviceFeed& feed() const {
    TORCH_CHECK(feed_ != nullptr,
                "DevicePrefetcher: this prefetcher has been moved from; use the "
                "one that it was moved to");
    return *feed_;
  }

  Loader* loader_;
  std::unique_ptr<detail::DeviceFeed> feed_;
};

}  // namespace lockstep::data
