// SPDX-License-Identifier: BSD-3-Clause
// Numbers that samples draw from LibTorch's functions, by way of `ThreadGenerator`.
#include "data/loader/sample_generator.h"

#include <cstddef>
#include <mutex>
#include <optional>

#include "data/samplers/mix.h"

namespace lockstep::data::detail {
namespace {

// A seed that no program has chosen.
constexpr std::uint64_t kNotSeeded = 0xA3B1'95D4'27C6'F08DU;

enum Purpose : std::uint64_t { kSample, kBatch, kReset, kNext, kStreamBatch };

thread_local SampleGenerator* in_use = nullptr;

}  // namespace

SampleGenerator::SampleGenerator(ManualSeed manual_seed)
    : generator_(at::detail::createCPUGenerator(kNotSeeded)),
      own_(*generator_.get<at::CPUGeneratorImpl>()),
      program_(*at::detail::getDefaultCPUGenerator().get<at::CPUGeneratorImpl>()),
      manual_seed_(manual_seed) {
  redirect_draws();
}

SampleGenerator::Use::Use(SampleGenerator& generator)
    : generator_(generator),
      before_(in_use),
      follows_manual_seed_(generator.follows_here()),
      redirection_(&SampleGenerator::to_draw_from) {
  in_use = &generator;
  generator.is_seeded_ = false;
  generator.follows_manual_seed_ = follows_manual_seed_;
  if (!follows_manual_seed_) return;
  const std::lock_guard lock(generator.program_.mutex_);
  generator.program_seed_ = generator.program_.current_seed();
  generator.swap_program_seed(kNotSeeded);
}

SampleGenerator::Use::~Use() {
  in_use = before_;
  if (!follows_manual_seed_) return;
  const std::lock_guard lock(generator_.program_.mutex_);
  if (generator_.program_.current_seed() == kNotSeeded) {
    generator_.swap_program_seed(generator_.program_seed_);
  }
}

// In the calling thread, before a `Use` of this generator.
bool SampleGenerator::follows_here() const {
  if (manual_seed_ != ManualSeed::FollowedOutsideOfRanks) {
    return manual_seed_ == ManualSeed::Followed;
  }
  if (in_use != nullptr) return in_use->follows_manual_seed_;  // a loader in a sample of another
  return ThreadGenerator::current() == nullptr;
}

// What the generator says it was seeded with, and none of the numbers that it gives.
void SampleGenerator::swap_program_seed(std::uint64_t seed) {
  auto engine = program_.engine();
  auto data = engine.data();
  data.seed_ = seed;
  engine.set_data(data);
  program_.set_engine(engine);
}

void SampleGenerator::begin(const Key& key) {
  if (in_use == nullptr) return;
  in_use->key_ = key;
  in_use->is_seeded_ = false;
}

void SampleGenerator::begin_again() {
  if (in_use == nullptr) return;
  in_use->is_seeded_ = false;
  if (in_use->follows_manual_seed_) static_cast<void>(in_use->take_manual_seed());
}

void SampleGenerator::begin_sample(std::uint64_t seed, std::int64_t epoch, std::int64_t index) {
  begin({kSample, seed, static_cast<std::uint64_t>(epoch), static_cast<std::uint64_t>(index), 0});
}

void SampleGenerator::begin_batch(std::uint64_t seed, std::int64_t epoch, std::int64_t index) {
  begin({kBatch, seed, static_cast<std::uint64_t>(epoch), static_cast<std::uint64_t>(index), 0});
}

void SampleGenerator::begin_reset(std::uint64_t seed, std::int64_t epoch, std::size_t shard) {
  begin({kReset, seed, static_cast<std::uint64_t>(epoch), shard, 0});
}

void SampleGenerator::begin_next(std::uint64_t seed, std::int64_t epoch, std::size_t shard,
                                 std::uint64_t number) {
  begin({kNext, seed, static_cast<std::uint64_t>(epoch), shard, number});
}

void SampleGenerator::begin_stream_batch(std::uint64_t seed, std::int64_t epoch, std::size_t shard,
                                         std::uint64_t number) {
  begin({kStreamBatch, seed, static_cast<std::uint64_t>(epoch), shard, number});
}

const at::Generator* SampleGenerator::to_draw_from() {
  if (in_use == nullptr) return nullptr;
  if (in_use->follows_manual_seed_) in_use->follow_manual_seed();
  if (!in_use->is_seeded_) {
    OrderFingerprint words("draws");
    for (const auto word : in_use->key_) words.add(word);
    in_use->seed(words.value());
  }
  return &in_use->generator_;
}

// LibTorch's own way uses 32 bits of a seed: of 100 000 samples two would have the same numbers.
void SampleGenerator::seed(std::uint64_t key) {
  constexpr std::uint64_t kStep = 0x9E3779B97F4A7C15U;
  at::mt19937_data_pod data{};
  data.seed_ = key;
  data.seeded_ = true;
  data.left_ = 1;  // the first number makes the next state
  for (std::size_t at = 0; at < data.state_.size(); at += 2) {
    const auto word = mix(key += kStep);
    data.state_[at] = static_cast<std::uint32_t>(word);
    data.state_[at + 1] = static_cast<std::uint32_t>(word >> 32);
  }
  const std::lock_guard lock(own_.mutex_);
  auto engine = own_.engine();  // cheaper than a new one
  engine.set_data(data);
  own_.set_engine(engine);
  own_.set_next_float_normal_sample(std::nullopt);
  own_.set_next_double_normal_sample(std::nullopt);
  is_seeded_ = true;
}

void SampleGenerator::follow_manual_seed() {
  const auto seed = take_manual_seed();
  if (!seed) return;
  const std::lock_guard lock(own_.mutex_);
  own_.set_current_seed(*seed);
  is_seeded_ = true;
}

// `torch::manual_seed` reaches the program's generator. That one is told apart by a seed of ours,
// which comes back at once, so that the same seed is seen a second time.
std::optional<std::uint64_t> SampleGenerator::take_manual_seed() {
  const std::lock_guard lock(program_.mutex_);
  const auto seed = program_.current_seed();
  if (seed == kNotSeeded) return std::nullopt;
  program_seed_ = seed;
  swap_program_seed(kNotSeeded);
  return seed;
}

}  // namespace lockstep::data::detail
