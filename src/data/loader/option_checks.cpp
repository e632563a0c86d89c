// SPDX-License-Identifier: BSD-3-Clause
#include "data/loader/option_checks.h"

#include <c10/util/Exception.h>
#include <sched.h>

#include <chrono>
#include <cstdint>
#include <limits>

#include "data/loader/spawned_worker.h"

namespace lockstep::data::detail {
namespace {

constexpr std::int64_t kMaxPrefetch = 64;
constexpr std::chrono::milliseconds kMaxTimeout = std::chrono::hours(24 * 365);

void check_ranges(const DataLoaderOptions& options) {
  constexpr auto kMaxWorkers = DataLoaderOptions::kMaxWorkers;
  TORCH_CHECK(options.batch_size() > 0, "DataLoaderOptions: batch_size is ", options.batch_size(),
              "; it must be at least 1");
  TORCH_CHECK(options.workers() >= 0 && options.workers() <= kMaxWorkers,
              "DataLoaderOptions: workers is ", options.workers(), "; it must be from 0 to ",
              kMaxWorkers);
  TORCH_CHECK(options.prefetch_batches() > 0 && options.prefetch_batches() <= kMaxPrefetch,
              "DataLoaderOptions: prefetch_batches is ", options.prefetch_batches(),
              "; it must be from 1 to ", kMaxPrefetch);
  constexpr auto kMaxReadAhead = DataLoaderOptions::kMaxReadAhead;
  TORCH_CHECK(options.read_ahead() >= 0 && options.read_ahead() <= kMaxReadAhead,
              "DataLoaderOptions: read_ahead is ", options.read_ahead(), "; it must be from 0 to ",
              kMaxReadAhead);
  constexpr auto kMaxInFlight = DataLoaderOptions::kMaxInFlight;
  TORCH_CHECK(options.in_flight() >= 0 && options.in_flight() <= kMaxInFlight,
              "DataLoaderOptions: in_flight is ", options.in_flight(), "; it must be from 0 to ",
              kMaxInFlight);
  TORCH_CHECK(options.timeout().count() > 0 && options.timeout() <= kMaxTimeout,
              "DataLoaderOptions: timeout is ", options.timeout().count(),
              " ms; it must be from 1 to ", kMaxTimeout.count(), " ms");
  TORCH_CHECK(options.worker_memory_limit() >= 0, "DataLoaderOptions: worker_memory_limit is ",
              options.worker_memory_limit(), "; it must not be negative");
  for (const int cpu : options.worker_cpus()) {
    TORCH_CHECK(cpu >= 0 && cpu < CPU_SETSIZE, "DataLoaderOptions: worker_cpus names the core ",
                cpu, "; it must be from 0 to ", CPU_SETSIZE - 1);
  }
}

void check_rank(const DataLoaderOptions& options) {
  TORCH_CHECK(
      options.world_size() > 0 && options.rank() >= 0 && options.rank() < options.world_size(),
      "DataLoaderOptions: rank is ", options.rank(), " and world_size is ", options.world_size(),
      "; rank must be from 0 to world_size - 1");
  TORCH_CHECK(options.world_size() <= std::numeric_limits<int>::max(),
              "DataLoaderOptions: world_size is ", options.world_size(), "; it must be at most ",
              std::numeric_limits<int>::max());
}

void check_workers(const DataLoaderOptions& options) {
  TORCH_CHECK(
      !is_spawned_worker(),
      "DataLoader: this process was started as a data worker, but its main() does not begin "
      "with maybe_worker_main()");
  if (options.kind() == WorkerKind::Spawn) {
    TORCH_CHECK(
        !options.spawn_name().empty(),
        "DataLoaderOptions: kind is Spawn, but no dataset is named; call spawn(name, config)");
    TORCH_CHECK(
        !options.worker_init(),
        "DataLoaderOptions: worker_init cannot reach workers of the kind Spawn; do it in the "
        "dataset's factory");
  } else {
    TORCH_CHECK(options.spawn_name().empty(), "DataLoaderOptions: spawn names the dataset '",
                options.spawn_name(), "', but kind is not Spawn; call kind(WorkerKind::Spawn)");
  }
  if (options.kind() != WorkerKind::Thread || options.workers() == 0) return;
  TORCH_CHECK(options.on_poison_sample() == PoisonPolicy::Error,
              "DataLoaderOptions: on_poison_sample cannot help where kind is Thread: a sample that "
              "kills a thread kills the program; use worker processes (on_failed_sample is for "
              "samples that throw)");
  TORCH_CHECK(
      options.worker_memory_limit() == 0, "DataLoaderOptions: worker_memory_limit is ",
      options.worker_memory_limit(),
      ", but kind is Thread, and threads have no memory of their own; use worker processes");
}

void check_iterable(const DataLoaderOptions& options) {
  check_rank(options);
  TORCH_CHECK(
      options.shards() >= options.world_size() && options.shards() <= DataLoaderOptions::kMaxShards,
      "DataLoaderOptions: shards is ", options.shards(), "; it must be from world_size, ",
      options.world_size(), ", to ", DataLoaderOptions::kMaxShards);
  TORCH_CHECK(!options.shuffle(),
              "DataLoaderOptions: shuffle is on, but an iterable dataset decides its order itself; "
              "shuffle in its reset(shard, shards, epoch)");
}

void check_sampler(const DataLoaderOptions& options, const SamplerFacts& sampler) {
  TORCH_CHECK(!options.shuffle(),
              "DataLoaderOptions: shuffle is on, but the loader is given a sampler, which decides "
              "the order; leave one of them out");
  TORCH_CHECK(
      options.rank() == 0 && options.world_size() == 1, "DataLoaderOptions: rank is ",
      options.rank(), " and world_size is ", options.world_size(),
      ", but the loader is given a sampler, which decides what is this rank's; leave one of "
      "them out");
  if (!sampler.gives_batches) return;
  TORCH_CHECK(options.batch_size() == 1, "DataLoaderOptions: batch_size is ", options.batch_size(),
              ", but the sampler gives batches; leave one of them out");
  TORCH_CHECK(!options.drop_last(),
              "DataLoaderOptions: drop_last is on, but the sampler gives batches; ask it for that");
}

}  // namespace

void check_options(const DataLoaderOptions& options, bool is_iterable,
                   const SamplerFacts& sampler) {
  check_ranges(options);
  check_workers(options);
  if (is_iterable) {
    check_iterable(options);
  } else {
    TORCH_CHECK(options.shards() == 1, "DataLoaderOptions: shards is ", options.shards(),
                ", but only an iterable dataset is read in shards; rank and world_size share out "
                "the samples of this one");
    if (sampler.is_given) {
      check_sampler(options, sampler);
    } else {
      check_rank(options);
    }
  }
  TORCH_CHECK(options.shuffle() || options.shuffle_order() == ShuffleOrder::PyTorch,
              "DataLoaderOptions: shuffle_order is Keyed, but shuffle is off; call shuffle(true), "
              "or give it to the sampler");
}

DistributedSampler sampler_of_whole(std::optional<std::size_t> size,
                                    const DataLoaderOptions& options) {
  TORCH_CHECK(size, "DataLoader: the dataset does not know its size; give the loader a sampler");
  TORCH_CHECK(*size > 0, "DataLoader: the dataset is empty; it must hold at least 1 sample");
  check_rank(options);
  return DistributedSampler(*size, static_cast<int>(options.world_size()),
                            static_cast<int>(options.rank()),
                            DistributedSamplerOptions()
                                .shuffle(options.shuffle())
                                .seed(options.seed())
                                .order(options.shuffle_order()));
}

}  // namespace lockstep::data::detail
