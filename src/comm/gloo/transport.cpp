// SPDX-License-Identifier: BSD-3-Clause
#include "comm/gloo/transport.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>

#include "comm/collective/operation.h"
#include "comm/collective/tensor_bytes.h"
#include "comm/gloo/start_lock.h"

namespace lockstep {
namespace {

using GlooWork = c10::intrusive_ptr<c10d::Work>;

constexpr std::size_t kGlooChunkBytes = std::size_t{32} << 20;
// After so long a wait a rank says in the store that it waits, so that a time-out can name those
// who do not. Far below any useful deadline, far above what a collective takes.
constexpr std::chrono::milliseconds kPatience{100};

GlooWork all_gather(c10d::ProcessGroupGloo& group, std::span<std::byte> output,
                    std::span<const std::byte> input) {
  auto target = tensor_of(output);
  auto source = tensor_of(input);
  c10d::AllgatherOptions options;
  options.timeout = kGlooTimeout;
  const auto lock = lock_gloo_start();
  return group._allgather_base(target, source, options);
}

class GlooAnnouncement final : public Announcement {
 public:
  GlooAnnouncement(GlooChannels& channels, const Fingerprint& own, std::span<Fingerprint> all)
      : channels_(channels),
        own_(own),
        number_(channels.next_collective()),
        work_(all_gather(channels.fingerprints(), std::as_writable_bytes(all),
                         std::as_bytes(std::span(&own_, 1)))) {}

  bool is_done() override { return is_gloo_work_done(channels_, *work_); }
  bool has_come(int /*rank*/) override { return is_done(); }
  std::string describe_missing() override { return channels_.late_ranks(number_); }
  void check_peers() override {
    // The store is asked about nothing but long waits.
    if (waits_long()) check_gloo_peers(channels_);
  }

 private:
  /// Says so in the store, the first time.
  bool waits_long() {
    if (has_announced_wait_) return true;
    const auto now = std::chrono::steady_clock::now();
    if (waits_since_ == std::chrono::steady_clock::time_point{}) waits_since_ = now;
    if (now - waits_since_ < kPatience) return false;
    channels_.announce_waiting(number_);
    return has_announced_wait_ = true;
  }

  GlooChannels& channels_;
  Fingerprint own_;
  std::uint64_t number_;
  GlooWork work_;
  std::chrono::steady_clock::time_point waits_since_{};
  bool has_announced_wait_ = false;
};

template <typename Byte>
std::vector<std::int64_t> sizes_of(const std::vector<std::span<Byte>>& parts) {
  std::vector<std::int64_t> sizes;
  for (const auto& part : parts) sizes.push_back(static_cast<std::int64_t>(part.size()));
  return sizes;
}

template <typename Byte>
std::size_t bytes_in(const std::vector<std::span<Byte>>& parts) {
  std::size_t bytes = 0;
  for (const auto& part : parts) bytes += part.size();
  return bytes;
}

/// The parts as one, if they lie one behind the other.
template <typename Byte>
std::optional<std::span<Byte>> as_one(const std::vector<std::span<Byte>>& parts) {
  std::span<Byte> whole;
  for (const auto& part : parts) {
    if (part.empty()) continue;
    if (whole.empty()) {
      whole = part;
    } else if (part.data() == whole.data() + whole.size()) {
      whole = std::span(whole.data(), whole.size() + part.size());
    } else {
      return std::nullopt;
    }
  }
  return whole;
}

/// One step of a collective.
class GlooExchange final : public TransportRequest {
 public:
  GlooExchange(GlooChannels& channels, const Exchange& exchange,
               std::shared_ptr<GlooTransport::Scratch> scratch)
      : channels_(channels), scratch_(std::move(scratch)), work_(start(exchange)) {}

  bool is_done() override {
    if (!is_gloo_work_done(channels_, *work_)) return false;
    const std::byte* next = scratch_->received.data();
    for (const auto& target : std::exchange(unpacked_, {})) {
      std::copy_n(next, target.size(), target.begin());
      next += row_bytes_ == 0 ? target.size() : row_bytes_;
    }
    return true;
  }

 private:
  GlooWork start(const Exchange& exchange) {
    switch (exchange.pattern) {
      case Exchange::Pattern::Broadcast:
        return broadcast(exchange.receives[static_cast<std::size_t>(exchange.root)], exchange.root);
      case Exchange::Pattern::AllGather:
        return gather_rows(exchange);
      default:
        return all_to_all(exchange);
    }
  }

  GlooWork broadcast(std::span<std::byte> bytes, int root) {
    std::vector<at::Tensor> tensors{tensor_of(bytes)};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    options.timeout = kGlooTimeout;
    const auto lock = lock_gloo_start();
    return channels_.data().broadcast(tensors, options);
  }

  /// c10d gathers parts of one length only: shorter ones are filled up.
  GlooWork gather_rows(const Exchange& exchange) {
    const auto& parts = exchange.receives;
    const auto is_shorter = [](const auto& a, const auto& b) { return a.size() < b.size(); };
    const auto [shortest, longest] = std::minmax_element(parts.begin(), parts.end(), is_shorter);
    const auto own = exchange.sends.front();
    if (shortest->size() == longest->size()) {
      return all_gather(channels_.data(), *as_one(parts), own);
    }
    row_bytes_ = longest->size();
    unpacked_ = parts;
    scratch_->sent.assign(own.begin(), own.end());
    scratch_->sent.resize(row_bytes_);
    scratch_->received.resize(row_bytes_ * parts.size());
    return all_gather(channels_.data(), scratch_->received, scratch_->sent);
  }

  GlooWork all_to_all(const Exchange& exchange) {
    auto source = as_one(exchange.sends);
    if (!source) {
      scratch_->sent.clear();
      for (const auto& part : exchange.sends) {
        scratch_->sent.insert(scratch_->sent.end(), part.begin(), part.end());
      }
      source = scratch_->sent;
    }
    auto target = as_one(exchange.receives);
    if (!target) {
      unpacked_ = exchange.receives;
      scratch_->received.resize(bytes_in(exchange.receives));
      target = scratch_->received;
    }
    return all_to_all(*target, *source, sizes_of(exchange.receives), sizes_of(exchange.sends));
  }

  GlooWork all_to_all(std::span<std::byte> output, std::span<const std::byte> input,
                      std::vector<std::int64_t> output_sizes,
                      std::vector<std::int64_t> input_sizes) {
    auto target = tensor_of(output);
    auto source = tensor_of(input);
    c10d::AllToAllOptions options;
    options.timeout = kGlooTimeout;
    const auto lock = lock_gloo_start();
    return channels_.data().alltoall_base(target, source, output_sizes, input_sizes, options);
  }

  GlooChannels& channels_;
  std::shared_ptr<GlooTransport::Scratch> scratch_;
  std::vector<std::span<std::byte>> unpacked_;  // what comes in scratch memory goes here
  std::size_t row_bytes_ = 0;                   // of parts that are filled up; else 0
  GlooWork work_;
};

}  // namespace

GlooTransport::GlooTransport(GlooChannels& channels)
    : Transport(channels.rank(), channels.size(),
                // Streams lie packed, those of all ranks at once.
                {kGlooChunkBytes, kGlooChunkBytes / static_cast<std::size_t>(channels.size())}),
      channels_(channels) {}

std::unique_ptr<Announcement> GlooTransport::announce(const Fingerprint& own,
                                                      std::span<Fingerprint> all) {
  return std::make_unique<GlooAnnouncement>(channels_, own, all);
}

std::unique_ptr<TransportRequest> GlooTransport::exchange(const Exchange& exchange) {
  auto scratch = latest_scratch_.lock();
  if (!scratch) scratch = std::make_shared<Scratch>();
  latest_scratch_ = scratch;
  return std::make_unique<GlooExchange>(channels_, exchange, std::move(scratch));
}

std::unique_ptr<TransportRequest> GlooTransport::send(const at::Tensor& tensor,
                                                      const MessageHeader& header, int to) {
  return make_gloo_message(channels_, tensor, header, to, true);
}

std::unique_ptr<TransportRequest> GlooTransport::receive(const at::Tensor& tensor,
                                                         const MessageHeader& expected, int from) {
  return make_gloo_message(channels_, tensor, expected, from, false);
}

void GlooTransport::check_peers() {
  check_gloo_peers(channels_);
}

void check_gloo_peers(GlooChannels& channels) {
  const std::string reason = channels.poll_abort_reason();
  if (reason.empty()) return;
  throw OperationFailure{OperationFailure::Kind::PeerLost, reason,
                         "look at what that rank reported first"};
}

}  // namespace lockstep
