// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/CPUGeneratorImpl.h>

#include <array>
#include <cstdint>
#include <optional>

#include "core/thread_generator.h"

namespace lockstep::data::detail {

/// What a dataset draws from LibTorch without naming a generator: `torch::rand`, dropout,
/// `torch::randperm` and all others, on the CPU.
///
/// LibTorch draws such numbers from one generator of the process, whose state depends on what came
/// before, is the same in all processes after a fork, and is the program's. While a `Use` lives,
/// what the calling thread draws comes from this generator instead, which begins anew with each
/// sample. It is seeded at the first number that a sample draws: those that draw nothing pay
/// nothing.
///
/// Thread-safety: none; one thread uses it at a time.
class SampleGenerator {
 public:
  /// Whether `torch::manual_seed` in a sample is the sample's: not where several threads fetch
  /// samples, since it names a generator that all have in common. Nor is it in ranks that are
  /// threads: two that follow it would take each other's mark for a seed.
  enum class ManualSeed { Followed, FollowedOutsideOfRanks, Ignored };

  explicit SampleGenerator(ManualSeed manual_seed);
  SampleGenerator(const SampleGenerator&) = delete;
  SampleGenerator& operator=(const SampleGenerator&) = delete;

  /// From here to the end of the scope the calling thread draws from `generator`.
  class Use {
   public:
    explicit Use(SampleGenerator& generator);
    ~Use();
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    SampleGenerator& generator_;
    SampleGenerator* before_;
    bool follows_manual_seed_;
    ThreadGenerator redirection_;
  };

  /// What is drawn from now on, in the calling thread, is that of: a sample; a batch that a collate
  /// function makes of samples, of which `index` is the first; sample `number` of a shard, or all
  /// of its `reset`; a batch of those. Nothing happens outside of a `Use`.
  static void begin_sample(std::uint64_t seed, std::int64_t epoch, std::int64_t index);
  static void begin_batch(std::uint64_t seed, std::int64_t epoch, std::int64_t index);
  static void begin_reset(std::uint64_t seed, std::int64_t epoch, std::size_t shard);
  static void begin_next(std::uint64_t seed, std::int64_t epoch, std::size_t shard,
                         std::uint64_t number);
  static void begin_stream_batch(std::uint64_t seed, std::int64_t epoch, std::size_t shard,
                                 std::uint64_t number);

  /// What was begun last begins again: numbers that were drawn and seeds that were set meanwhile
  /// are nobody's.
  static void begin_again();

  /// That of the calling thread's innermost `Use`, seeded for what was begun last; nullptr outside.
  [[nodiscard]] static const at::Generator* to_draw_from();

 private:
  using Key = std::array<std::uint64_t, 5>;

  static void begin(const Key& key);
  void seed(std::uint64_t key);
  [[nodiscard]] bool follows_here() const;
  void follow_manual_seed();
  [[nodiscard]] std::optional<std::uint64_t> take_manual_seed();
  void swap_program_seed(std::uint64_t seed);

  at::Generator generator_;
  at::CPUGeneratorImpl& own_;
  at::CPUGeneratorImpl& program_;  // the process's default one
  ManualSeed manual_seed_;
  bool follows_manual_seed_ = false;  // in the innermost `Use`
  std::uint64_t program_seed_ = 0;    // what `program_` says when no `Use` lives
  Key key_{};
  bool is_seeded_ = false;  // for `key_`
};

}  // namespace lockstep::data::detail
