// SPDX-License-Identifier: BSD-3-Clause
// Step 5 of the way of a sample where a batch can only be made of all its samples: the worker's
// part of it. Several workers may fetch them; the one with the closing unit makes the batch.
#include <exception>
#include <utility>

#include "data/loader/batch_builder.h"
#include "data/loader/batch_places.h"
#include "data/loader/batch_worker.h"
#include "data/loader/sample_generator.h"
#include "data/loader/sample_pieces.h"
#include "data/loader/sample_policy.h"
#include "data/samples/tree_codec.h"
#include "workers/unit_word.h"

namespace lockstep::data::detail {
namespace {

using workers::Claim;
using workers::SharedMemoryChannel;

// Batches may be somewhat larger than the first.
constexpr std::size_t kHeadroom = 4;  // a quarter

}  // namespace

void BatchWorker::build_whole(const Claim& claim, std::size_t& at) {
  const bool is_part = !claim.is_closing && claim.items.size() != channel_.items(claim.slot).size();
  if (is_part) return fetch_part(claim);
  channel_.set_result(claim.slot, 0);
  auto samples = collect(claim, at);
  if (!samples) return;
  at = 0;
  if (samples->empty() ||
      (job_.source.open && job_.facts.drop_last && samples->size() < job_.facts.batch_size)) {
    return;
  }
  channel_.begin_item(worker_, claim.slot, workers::kNoItem);
  begin_collating(claim);
  put_whole(claim, make_batch(claim, std::move(*samples), at));
  channel_.free_pieces(claim.slot, SharedMemoryChannel::kItemPieces);
}

void BatchWorker::begin_collating(const Claim& claim) const {
  const auto epoch = static_cast<std::int64_t>(channel_.word(claim.slot, kEpoch));
  if (!job_.source.open) return SampleGenerator::begin_batch(job_.seed, epoch, first_item_);
  const auto shard = shard_of_word(channel_.word(claim.slot, kShard));
  SampleGenerator::begin_stream_batch(job_.seed, epoch, job_.facts.shard(shard),
                                      static_cast<std::uint64_t>(claim.items[0]));
}

// When it throws, `at` is the place of the sample that is to blame.
SampleTree BatchWorker::make_batch(const Claim& claim, std::vector<SampleTree> samples,
                                   std::size_t& at) {
  std::size_t number = 0;
  try {
    auto batch = collate(job_.source, std::move(samples), number);
    return batch;
  } catch (...) {
    if (!job_.source.open) at = place_of(claim, number);
    throw;
  }
}

// Of sample `number` of those that were not left out.
std::size_t BatchWorker::place_of(const Claim& claim, std::size_t number) const {
  std::size_t place = 0;
  for (; place + 1 < claim.items.size(); ++place) {
    if (!channel_.is_left_out(claim.slot, place) && number-- == 0) break;
  }
  return place;
}

// What cannot be passed on is left to the worker with the closing unit, which fetches it again.
// When that has happened once, nobody fetches parts any more.
void BatchWorker::fetch_part(const Claim& claim) {
  auto& samples_stay = shared().samples_stay;
  if (samples_stay.load(std::memory_order_relaxed) != 0) return;
  if (channel_.is_futile(claim) || channel_.is_stopping()) return;
  const auto epoch = static_cast<std::int64_t>(channel_.word(claim.slot, kEpoch));
  channel_.begin_item(worker_, claim.slot, claim.first);
  Places places(*this, claim.slot);
  SampleTree sample;
  const auto fetch_one = [&](std::int64_t index) {
    sample = fetch(job_.source, job_.seed, epoch, index);
  };
  if (!have_sample(job_.facts.on_failed_sample, places, claim.first, fetch_one)) return;
  if (!can_be_passed_on(sample, job_.source.collate != nullptr)) {
    samples_stay.store(1, std::memory_order_relaxed);
    return;
  }
  try {
    put_sample(channel_, claim.slot, claim.first, sample);
  } catch (const std::exception&) {  // no memory for it; the batch may be built all the same
  }
}

// Nothing where it must be fetched again.
std::optional<SampleTree> BatchWorker::part(const Claim& claim, std::size_t at) {
  if (!claim.is_closing) return std::nullopt;
  channel_.begin_item(worker_, claim.slot, workers::kNoItem);
  std::optional<SampleTree> sample;
  try {
    sample = take_sample(channel_, claim.slot, at);
  } catch (const std::exception&) {  // as above
  }
  channel_.end_item(worker_);
  return sample;
}

std::optional<std::vector<SampleTree>> BatchWorker::collect(const Claim& claim, std::size_t& at) {
  if (job_.source.open) {
    channel_.begin_item(worker_, claim.slot, 0);
    std::size_t thrown = 0;
    auto samples = read_stream(claim, thrown);
    if (samples) channel_.set_result(claim.slot, StreamResult{samples->size(), thrown}.word());
    return samples;
  }
  const auto epoch = static_cast<std::int64_t>(channel_.word(claim.slot, kEpoch));
  Places places(*this, claim.slot);
  std::vector<SampleTree> samples;
  samples.reserve(claim.items.size());
  for (; at < claim.items.size(); ++at) {
    if (channel_.is_futile(claim) || channel_.is_stopping()) return std::nullopt;
    if (channel_.is_left_out(claim.slot, at)) continue;
    const auto had = samples.size();
    if (auto sample = part(claim, at)) {
      samples.push_back(std::move(*sample));
    } else {
      channel_.begin_item(worker_, claim.slot, at);
      static_cast<void>(
          have_sample(job_.facts.on_failed_sample, places, at, [&](std::int64_t index) {
            samples.push_back(fetch(job_.source, job_.seed, epoch, index));
          }));
      channel_.end_item(worker_);
    }
    if (had == 0 && !samples.empty()) first_item_ = channel_.item(claim.slot, at);
  }
  return samples;
}

void BatchWorker::put_whole(const Claim& claim, const SampleTree& batch) {
  const TreeCodec bytes(batch);
  for (;;) {
    const auto is_ours = await_turn(claim, 0);
    if (!is_ours) return;
    channel_.begin_item(worker_, claim.slot, workers::kNoItem);
    if (!*is_ours || settle(claim, "", bytes.size() + bytes.size() / kHeadroom)) break;
  }
  if (bytes.size() <= shared().slot_bytes) {
    // Of a worker that died here before this one.
    channel_.free_piece(claim.slot, SharedMemoryChannel::kResultPiece);
    return bytes.write(slot_memory(claim.slot));
  }
  const auto piece =
      channel_.make_piece(claim.slot, SharedMemoryChannel::kResultPiece, bytes.size());
  bytes.write(piece.data());
  channel_.publish_piece(claim.slot, SharedMemoryChannel::kResultPiece);
}

// A shard that another worker was at begins anew, and what has been delivered of it is passed over.
std::optional<std::vector<SampleTree>> BatchWorker::read_stream(const Claim& claim,
                                                                std::size_t& thrown) {
  const auto epoch = static_cast<std::int64_t>(channel_.word(claim.slot, kEpoch));
  const auto word = channel_.word(claim.slot, kShard);
  const auto shard = shard_of_word(word);
  const auto number = static_cast<std::uint64_t>(claim.items[0]);
  auto& state = streams_[shard];
  if (!state.stream || state.word != word || state.next > number) {
    SampleGenerator::begin_reset(job_.seed, epoch, job_.facts.shard(shard));
    state.stream = job_.source.open();
    state.stream->reset(job_.facts.shard(shard), job_.facts.all_shards, epoch);
    state.word = word;
    state.next = 0;
  }
  std::vector<SampleTree> samples;
  for (; state.next <= number; ++state.next) {
    samples.clear();
    thrown = 0;
    while (samples.size() < job_.facts.batch_size) {
      if (channel_.is_futile(claim) || channel_.is_stopping()) {
        state.stream.reset();
        return std::nullopt;
      }
      auto sample = next_sample(
          *state.stream, job_.facts.on_failed_sample,
          [&] {
            channel_.begin_item(worker_, claim.slot, 0);
            SampleGenerator::begin_next(job_.seed, epoch, job_.facts.shard(shard),
                                        state.next * job_.facts.batch_size + samples.size());
          },
          [&] {
            ++thrown;
            note(claim.slot, 0, -1);
          });
      if (!sample) break;
      samples.push_back(std::move(*sample));
    }
  }
  return samples;
}

}  // namespace lockstep::data::detail
