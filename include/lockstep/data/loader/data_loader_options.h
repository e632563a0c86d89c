// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/samplers/distributed_sampler.h>
#include <lockstep/workers/worker_kind.h>
#include <torch/arg.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::data {

/// What builds a loader's batches when the calling thread does not. The bits are the same.
using lockstep::WorkerKind;

/// What the loader does about a sample that it cannot get.
enum class SamplePolicy {
  Error,    ///< its batch is a `WorkerError` that names it
  Skip,     ///< its batch comes without it; one of which nothing is left does not come
  Replace,  ///< another one takes its place: the next of its batch that can be had, from the first
            ///< on again behind the last; then the next in the order of the epoch, up to
            ///< `kReplacements` behind the batch. Where none can be had it is an `Error`
};
/// What the loader does about a sample that has killed two workers, one after the other.
using PoisonPolicy = SamplePolicy;

/// What a `DataLoader` is told. Options that say which samples come, in which order and batches,
/// are refused where they do not apply. Those that say how workers do it mean nothing for
/// `workers(0)`.
///
/// Thread-safety: a value.
struct LOCKSTEP_API DataLoaderOptions {
  /// How far behind a batch `SamplePolicy::Replace` looks for a sample.
  static constexpr std::size_t kReplacements = 4;
  /// An iterable dataset that throws so often in a row is at its end.
  static constexpr std::size_t kMostThrownInARow = 100;
  /// The most `workers`.
  static constexpr std::int64_t kMaxWorkers = 1024;
  /// The most `read_ahead`.
  static constexpr std::int64_t kMaxReadAhead = 65536;
  /// The most `in_flight`.
  static constexpr std::int64_t kMaxInFlight = 65536;
  /// The most `shards`.
  static constexpr std::int64_t kMaxShards = 65536;

  /// Samples in a batch; at least 1. The last batch of an epoch may have fewer. Neither this nor
  /// `drop_last` may be set where a sampler gives batches.
  TORCH_ARG(std::int64_t, batch_size) = 1;
  /// Workers, 0 to `kMaxWorkers`; 0 builds the batches in the calling thread. All numbers give the
  /// same bits.
  TORCH_ARG(std::int64_t, workers) = 0;
  /// What the workers are.
  TORCH_ARG(WorkerKind, kind) = WorkerKind::Process;

 public:
  /// `WorkerKind::Spawn` needs the dataset's name in the `DatasetRegistry`, and the string that its
  /// factory is given.
  DataLoaderOptions& spawn(std::string name, std::string config = {}) {
    spawn_name_ = std::move(name);
    spawn_config_ = std::move(config);
    return *this;
  }
  /// What `spawn` was given; empty before.
  [[nodiscard]] const std::string& spawn_name() const noexcept { return spawn_name_; }
  /// What `spawn` was given; empty before.
  [[nodiscard]] const std::string& spawn_config() const noexcept { return spawn_config_; }
  /// Leaves out a last batch that is not full.
  TORCH_ARG(bool, drop_last) = false;
  /// Each epoch that `set_epoch` sets has an order of its own; only where the loader is given no
  /// sampler, and not for iterable datasets. A pass without a `set_epoch` before it has the order
  /// of the pass before.
  TORCH_ARG(bool, shuffle) = false;
  /// How that order is made. For very large datasets take `Keyed`, which needs no memory.
  TORCH_ARG(ShuffleOrder, shuffle_order) = ShuffleOrder::PyTorch;
  /// Decides what datasets draw from `SampleRandom` and from LibTorch's functions (`torch::rand`),
  /// together with epoch and index; and the order, with `shuffle`. The same on all ranks.
  TORCH_ARG(std::uint64_t, seed) = 0;
  /// Batches that are prepared ahead for each worker, 1 to 64.
  TORCH_ARG(std::int64_t, prefetch_batches) = 2;
  /// Samples that come next whose files are read into the page cache before they are asked for, 0
  /// to `kMaxReadAhead`; 0: none. For datasets that name their files (`files_of`); the files of all
  /// workers' samples together, as far as their batches are given out, and at most about 256 MiB.
  /// While all of it is in the cache anyway, only some are looked at.
  TORCH_ARG(std::int64_t, read_ahead) = 64;
  /// Samples that a dataset with `get_async` may have under way for each worker, 0 to
  /// `kMaxInFlight`; 0: `get` is called instead. Each batch is built by one worker then, and
  /// `timeout` says how long a sample is waited for at its turn.
  TORCH_ARG(std::int64_t, in_flight) = 16;
  /// Workers that have built all batches of an epoch begin with the next one: epoch e + 1 after e,
  /// or as far on as the program went from the epoch before to this one (again the same where it
  /// never sets another). A wrong guess costs the work on at most
  /// `workers * prefetch_batches + 3` batches.
  /// Needs a sampler of this library, or one that can be resumed; not for iterable datasets.
  TORCH_ARG(bool, prepare_next_epoch) = true;
  /// All tensors of all batches lie in pinned memory, which a GPU reads by itself while the program
  /// goes on (`non_blocking`): the workers' memory is registered with CUDA at the first batch, and
  /// what does not lie there is copied into pinned memory of LibTorch's. A batch may be let go of
  /// while it is copied, by a thread whose current stream is the one that copies. Where there is no
  /// GPU, or no CUDA in this build: a warning, and ordinary memory.
  TORCH_ARG(bool, pin_memory) = false;
  /// False: whichever batch is ready comes first, which gives up that every run is the same.
  TORCH_ARG(bool, in_order) = true;
  /// How long a worker may be at one sample. One that takes longer is killed and replaced, where it
  /// is a process, and the sample done again; where it is a thread, the batch's turn ends in a
  /// `WorkerError`.
  TORCH_ARG(std::chrono::milliseconds, timeout) = std::chrono::seconds(60);
  /// What is done about a sample at which the dataset throws; by default its batch's turn ends in a
  /// `WorkerError`. It is the same for every kind and number of workers. `statistics()` counts; the
  /// first one is logged as a warning. What the sampler, the collate function or the stacking of
  /// samples throws is an error in any case. An iterable dataset is asked for its next sample, for
  /// `Skip` as for `Replace`; one that throws `kMostThrownInARow` times in a row is at its end,
  /// with that error.
  TORCH_ARG(SamplePolicy, on_failed_sample) = SamplePolicy::Error;
  /// What is done about a sample that has killed two worker processes, one after the other. Refused
  /// for threads, which it cannot help. With an iterable dataset it is an error in any case, since
  /// nobody knows what sample would have come next.
  TORCH_ARG(PoisonPolicy, on_poison_sample) = PoisonPolicy::Error;
  /// The most anonymous memory that a worker process may have, in bytes, with what it has in common
  /// with this process. A worker that has more is replaced between two samples; one that has half
  /// as much again is killed. 0: no limit. Refused for threads, which share this process's memory.
  TORCH_ARG(std::int64_t, worker_memory_limit) = 0;
  /// Cores of the workers, by turns; empty: wherever the system puts them.
  TORCH_ARG(std::vector<int>, worker_cpus);
  /// Runs in each worker, before its first sample, with the worker's number. Not called for
  /// `workers(0)`; refused for `WorkerKind::Spawn`, whose datasets are made by a factory.
  TORCH_ARG(std::function<void(std::size_t worker)>, worker_init);
  /// Iterable datasets: parts into which all ranks' data is cut, at least one a rank. They decide
  /// what comes in which order; workers do not.
  TORCH_ARG(std::int64_t, shards) = 1;
  /// This loader takes its share of the data, where it is given no sampler: of an iterable dataset
  /// the shards `rank`, `rank + world_size`, ...; of others what a `DistributedSampler` gives,
  /// which repeats samples so that all ranks have as many.
  TORCH_ARG(std::int64_t, rank) = 0;
  /// How many ranks take a share, this one included.
  TORCH_ARG(std::int64_t, world_size) = 1;

 private:
  std::string spawn_name_;
  std::string spawn_config_;
};

}  // namespace lockstep::data
