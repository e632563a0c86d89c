// SPDX-License-Identifier: BSD-3-Clause
#include "comm/gloo/operation.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "comm/collective/tensor_bytes.h"
#include "comm/gloo/start_lock.h"

namespace lockstep {
namespace {

constexpr int kLooksBeforeSleep = 100;
constexpr std::chrono::microseconds kInterval{50};
// After so long a wait a rank says in the store that it waits, so that a time-out can name those
// who do not. Far below any useful deadline, far above what a collective takes.
constexpr std::chrono::milliseconds kPatience{100};

}  // namespace

void GlooBackoff::sleep(std::chrono::nanoseconds limit) {
  if (++looks_ < kLooksBeforeSleep) {
    std::this_thread::yield();
  } else {
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(kInterval, limit));
  }
}

GlooOperation::GlooOperation(GlooChannels& channels, Fingerprint fingerprint, std::size_t bytes)
    : channels_(channels),
      own_(fingerprint),
      all_(static_cast<std::size_t>(channels.size())),
      bytes_(bytes) {}

bool GlooOperation::try_start(bool) {
  if (announcement_) return true;
  number_ = channels_.next_collective();
  auto all = tensor_of(std::as_writable_bytes(std::span(all_)));
  auto own = tensor_of(std::as_writable_bytes(std::span(&own_, 1)));
  c10d::AllgatherOptions options;
  options.timeout = kGlooTimeout;
  const auto lock = lock_gloo_start();
  announcement_ = channels_.fingerprints()._allgather_base(all, own, options);
  return true;
}

bool GlooOperation::try_finish() {
  if (!is_agreed_) {
    if (!is_gloo_work_done(channels_, *announcement_)) return false;
    check_fingerprints(world_size(),
                       [this](int rank) { return all_[static_cast<std::size_t>(rank)]; });
    is_agreed_ = true;
  }
  while (!step_work_ || is_gloo_work_done(channels_, *step_work_)) {
    backoff_.reset();
    if (!start_next_step()) return true;
  }
  return false;
}

bool GlooOperation::start_next_step() {
  if (!is_prepared_) {
    step_work_ = start_preparation(step_++);
    if (step_work_) return true;
    is_prepared_ = true;
    step_ = 0;
  }
  while (done_bytes_ < bytes_) {
    const Chunk chunk{done_bytes_, std::min(chunk_bytes(), bytes_ - done_bytes_)};
    step_work_ = start_step(step_++, chunk);
    if (step_work_) return true;
    done_bytes_ += chunk.bytes;
    step_ = 0;
  }
  return false;
}

void GlooOperation::sleep(std::chrono::nanoseconds limit) {
  backoff_.sleep(limit);
}

bool GlooOperation::waits_long() {
  if (has_said_) return true;
  const auto now = std::chrono::steady_clock::now();
  if (waits_since_ == std::chrono::steady_clock::time_point{}) waits_since_ = now;
  if (now - waits_since_ < kPatience) return false;
  channels_.say_waiting(number_);
  return has_said_ = true;
}

void GlooOperation::check_peers() {
  if (!waits_long()) return;  // the store is asked about nothing but long waits
  const std::string left = channels_.who_left();
  if (left.empty()) return;
  throw OperationFailure{OperationFailure::Kind::PeerLost, left,
                         "look at what that rank reported first"};
}

std::string GlooOperation::describe_missing() const {
  return channels_.late_ranks(number_);
}

GlooOperation::Step GlooOperation::all_to_all(std::span<std::byte> output,
                                              std::span<std::byte> input,
                                              std::vector<std::int64_t> output_splits,
                                              std::vector<std::int64_t> input_splits) const {
  auto target = tensor_of(output);
  auto source = tensor_of(input);
  c10d::AllToAllOptions options;
  options.timeout = kGlooTimeout;
  const auto lock = lock_gloo_start();
  return data().alltoall_base(target, source, output_splits, input_splits, options);
}

GlooOperation::Step GlooOperation::all_gather(std::span<std::byte> output,
                                              std::span<std::byte> input) const {
  auto target = tensor_of(output);
  auto source = tensor_of(input);
  c10d::AllgatherOptions options;
  options.timeout = kGlooTimeout;
  const auto lock = lock_gloo_start();
  return data()._allgather_base(target, source, options);
}

GlooOperation::Step GlooOperation::broadcast(std::span<std::byte> bytes, int root) const {
  std::vector<at::Tensor> tensors{tensor_of(bytes)};
  c10d::BroadcastOptions options;
  options.rootRank = root;
  options.timeout = kGlooTimeout;
  const auto lock = lock_gloo_start();
  return data().broadcast(tensors, options);
}

}  // namespace lockstep
