// SPDX-License-Identifier: BSD-3-Clause
// Step 6 of a sample's path, where a batch can only be made of all its samples. Before it:
// batch_worker claimed some of them. After it: batch_builder fetches each and makes the batch,
// tree_codec writes it.
#include "data/loader/collated_batches.h"

#include <exception>
#include <utility>

#include "data/loader/batch_builder.h"
#include "data/loader/claimed_places.h"
#include "data/loader/sample_blocks.h"
#include "data/loader/sample_generator.h"
#include "data/loader/sample_policy.h"
#include "data/loader/task_words.h"
#include "data/samples/tree_codec.h"
#include "workers/overflow_blocks.h"
#include "workers/worker_record.h"

namespace lockstep::data::detail {
namespace {

using workers::Claim;
using workers::CurrentItem;
using workers::OverflowBlocks;

// Batches may be somewhat larger than the first.
constexpr std::size_t kHeadroom = 4;  // a quarter

}  // namespace

bool CollatedBatches::build(const Claim& claim, std::size_t& at) {
  const bool is_part =
      !claim.is_collate && claim.items.size() != channel_.items().of(claim.slot).size();
  if (is_part) {
    fetch_one(claim);
    return true;
  }
  channel_.set_result(claim.slot, 0);
  auto samples = job_.is_iterable() ? read_stream(claim) : collect(claim, at);
  if (!samples) return true;
  at = 0;
  const auto count = samples->values.size();
  if (count == 0) return true;
  if (job_.is_iterable() && job_.facts.drop_last && count < job_.facts.batch_size) return true;
  channel_.begin_item(worker_, claim.slot, CurrentItem::kNoItem);
  begin_collating(claim, samples->first_item);
  if (!write(claim, make_batch(claim, std::move(samples->values), at))) return false;
  channel_.blocks().free_all(claim.slot, OverflowBlocks::kFirstItem);
  return true;
}

// What cannot be passed on is left to the worker with the collate task, which fetches it again.
// When that has happened once, no worker fetches single samples any more.
void CollatedBatches::fetch_one(const Claim& claim) {
  auto& samples_stay = SharedLayout::of(channel_).samples_stay;
  if (samples_stay.load(std::memory_order_relaxed) != 0 || is_useless(claim)) return;
  ClaimedPlaces places(channel_, worker_, claim.slot);
  places.begin(claim.first);
  SampleTree sample;
  const auto fetch_it = [&](std::int64_t index) {
    sample = fetch(job_.source, job_.seed, epoch_of(claim), index);
  };
  if (!have_sample(job_.facts.on_failed_sample, places, claim.first, fetch_it)) return;
  if (!can_be_passed_on(sample, job_.source.collate != nullptr)) {
    samples_stay.store(1, std::memory_order_relaxed);
    return;
  }
  try {
    put_sample(channel_.blocks(), claim.slot, claim.first, sample);
  } catch (const std::exception&) {  // no memory for it; the batch may be built all the same
  }
}

std::optional<CollatedBatches::Samples> CollatedBatches::collect(const Claim& claim,
                                                                 std::size_t& at) {
  ClaimedPlaces places(channel_, worker_, claim.slot);
  Samples samples;
  samples.values.reserve(claim.items.size());
  for (; at < claim.items.size(); ++at) {
    if (is_useless(claim)) return std::nullopt;
    if (channel_.items().is_left_out(claim.slot, at)) continue;
    const auto had = samples.values.size();
    if (auto sample = passed_on(claim, at)) {
      samples.values.push_back(std::move(*sample));
    } else {
      places.begin(at);
      static_cast<void>(
          have_sample(job_.facts.on_failed_sample, places, at, [&](std::int64_t index) {
            samples.values.push_back(fetch(job_.source, job_.seed, epoch_of(claim), index));
          }));
      channel_.end_item(worker_);
    }
    if (had == 0 && !samples.values.empty())
      samples.first_item = channel_.items().at(claim.slot, at);
  }
  return samples;
}

// The sample that another worker fetched. Nothing where it must be fetched again.
std::optional<SampleTree> CollatedBatches::passed_on(const Claim& claim, std::size_t at) {
  if (!claim.is_collate) return std::nullopt;
  channel_.begin_item(worker_, claim.slot, CurrentItem::kNoItem);
  std::optional<SampleTree> sample;
  try {
    sample = take_sample(channel_.blocks(), claim.slot, at);
  } catch (const std::exception&) {  // no memory to map it
  }
  channel_.end_item(worker_);
  return sample;
}

std::optional<CollatedBatches::Samples> CollatedBatches::read_stream(const Claim& claim) {
  channel_.begin_item(worker_, claim.slot, 0);
  const auto number = static_cast<std::uint64_t>(claim.items[0]);
  auto& state = stream_at(claim, number);
  Samples samples;
  std::size_t thrown = 0;
  for (; state.next <= number; ++state.next) {
    const auto missed = read_batch(claim, state, samples.values);
    if (!missed) {
      state.stream.reset();
      return std::nullopt;
    }
    thrown = *missed;
  }
  channel_.set_result(claim.slot, StreamResult{samples.values.size(), thrown}.word());
  return samples;
}

// A shard that another worker was at begins anew, and what has been delivered of it is read again.
CollatedBatches::Stream& CollatedBatches::stream_at(const Claim& claim, std::uint64_t number) {
  const auto word = channel_.word(claim.slot, kShard);
  const auto shard = shard_of_word(word);
  auto& state = streams_[shard];
  if (state.stream && state.word == word && state.next <= number) return state;
  SampleGenerator::begin_reset(job_.seed, epoch_of(claim), job_.facts.shard(shard));
  state.stream = job_.source.open();
  state.stream->reset(job_.facts.shard(shard), job_.facts.all_shards, epoch_of(claim));
  state.word = word;
  state.next = 0;
  return state;
}

// Returns how many samples threw and were passed over; nothing when the claim has become useless.
std::optional<std::size_t> CollatedBatches::read_batch(const Claim& claim, Stream& state,
                                                       std::vector<SampleTree>& samples) {
  const auto shard = job_.facts.shard(shard_of_word(state.word));
  ClaimedPlaces places(channel_, worker_, claim.slot);
  std::size_t thrown = 0;
  samples.clear();
  while (samples.size() < job_.facts.batch_size) {
    if (is_useless(claim)) return std::nullopt;
    const auto begin = [&] {
      places.begin(0);
      SampleGenerator::begin_next(job_.seed, epoch_of(claim), shard,
                                  state.next * job_.facts.batch_size + samples.size());
    };
    const auto note = [&] {
      ++thrown;
      places.note(0, -1);
    };
    auto sample = next_sample(*state.stream, job_.facts.on_failed_sample, begin, note);
    if (!sample) break;
    samples.push_back(std::move(*sample));
  }
  return thrown;
}

void CollatedBatches::begin_collating(const Claim& claim, std::int64_t first_item) const {
  const auto epoch = epoch_of(claim);
  if (!job_.is_iterable()) return SampleGenerator::begin_batch(job_.seed, epoch, first_item);
  const auto shard = shard_of_word(channel_.word(claim.slot, kShard));
  SampleGenerator::begin_stream_batch(job_.seed, epoch, job_.facts.shard(shard),
                                      static_cast<std::uint64_t>(claim.items[0]));
}

// When it throws, `at` is the place of the sample that is to blame.
SampleTree CollatedBatches::make_batch(const Claim& claim, std::vector<SampleTree> samples,
                                       std::size_t& at) {
  std::size_t number = 0;
  try {
    return collate(job_.source, std::move(samples), number);
  } catch (...) {
    if (!job_.is_iterable()) at = place_of(claim, number);
    throw;
  }
}

// The place of sample `number`, counted without those that were left out.
std::size_t CollatedBatches::place_of(const Claim& claim, std::size_t number) const {
  std::size_t place = 0;
  for (; place + 1 < claim.items.size(); ++place) {
    if (!channel_.items().is_left_out(claim.slot, place) && number-- == 0) break;
  }
  return place;
}

// False when the claim was given back.
bool CollatedBatches::write(const Claim& claim, const SampleTree& batch) {
  using Turn = SlotMemory::Turn;
  const TreeCodec bytes(batch);
  for (;;) {
    const auto turn = memory_.await_turn(claim, 0);
    if (turn == Turn::Futile || turn == Turn::GivenBack) return turn == Turn::Futile;
    channel_.begin_item(worker_, claim.slot, CurrentItem::kNoItem);
    if (turn == Turn::Over) break;
    if (memory_.publish_layout(claim, "", bytes.size() + bytes.size() / kHeadroom)) break;
  }
  if (bytes.size() <= memory_.bytes()) {
    // The block is of a worker that died here before this one.
    channel_.blocks().free(claim.slot, OverflowBlocks::kResult);
    bytes.write(memory_.of(claim.slot));
    return true;
  }
  const auto block = channel_.blocks().make(claim.slot, OverflowBlocks::kResult, bytes.size());
  bytes.write(block.data());
  channel_.blocks().publish(claim.slot, OverflowBlocks::kResult);
  return true;
}

bool CollatedBatches::is_useless(const Claim& claim) const {
  return channel_.is_futile(claim) || channel_.events().is_stopping();
}

std::int64_t CollatedBatches::epoch_of(const Claim& claim) const {
  return static_cast<std::int64_t>(channel_.word(claim.slot, kEpoch));
}

}  // namespace lockstep::data::detail
