// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Generator.h>
#include <c10/core/Device.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/comm/types.h>
#include <lockstep/core/export.h>
#include <torch/arg.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <vector>

namespace lockstep {

/// What a `LocalRanks` is told.
///
/// Thread-safety: a value.
struct LocalRanksOptions {
  /// How many threads the operators of one rank use on the CPU. 0: the cores that the constructing
  /// thread may use (its affinity), divided by the ranks, and at least 1, whatever OMP_NUM_THREADS
  /// says.
  TORCH_ARG(int, threads) = 0;
  /// How long a collective, or the rendezvous before them, may wait for other ranks. Must be
  /// positive.
  TORCH_ARG(std::chrono::milliseconds, timeout) = std::chrono::minutes(5);
  /// How the ranks communicate. Auto takes NCCL for GPUs where this build has it, and shared memory
  /// otherwise.
  TORCH_ARG(Backend, backend) = Backend::Auto;
  /// Rank r's random numbers begin with this seed plus r; ranks that share a GPU share its
  /// generator, which begins as that of the lowest of them. Without a seed, rank 0 draws from the
  /// process's generator, the others begin with the seed that this one has at the first `run` or
  /// `generator`, plus r, and GPUs go on as they are.
  TORCH_ARG(std::optional<std::uint64_t>, seed) = std::nullopt;
};

/// Several ranks in one process: a thread for each device, with a process group that connects them.
///
///     lockstep::LocalRanks ranks({torch::kCPU, torch::kCPU});
///     ranks.run([&](lockstep::ProcessGroup& group, torch::Device device) {
///       train(group, device);
///     });
///
/// The threads and their groups stay from one `run` to the next, so that a short `run` is cheap. In
/// these threads, backward runs in the thread that calls it, also on GPUs: LibTorch's own threads,
/// one a GPU for the whole process, would wait for each other in collectives. The number of threads
/// of operators is that of each rank alone; grad mode and autocast begin as the caller's of `run`,
/// and what a rank changes about them is that rank's alone. GPUs work in their default streams,
/// whatever stream is current in the caller.
///
/// Thread-safety: one thread at a time, and none of these ranks.
/// Owns: the threads and the groups. Destruction ends the threads and communicates nothing.
class LOCKSTEP_API LocalRanks final {
 public:
  /// Starts a thread for each device, in which that device is current. Rank r has device r; several
  /// ranks may have the CPU, or one GPU.
  ///
  /// Throws: `c10::Error` for no devices, a device that LibTorch does not see, or options out of
  /// range; `std::system_error` where the system gives no thread.
  explicit LocalRanks(std::vector<c10::Device> devices, const LocalRanksOptions& options = {});
  ~LocalRanks();
  LocalRanks(const LocalRanks&) = delete;
  LocalRanks& operator=(const LocalRanks&) = delete;

  /// Calls `body(group, device)` once in each rank's thread. `group` is a `ProcessGroup&`, or,
  /// where `body` does not take that, a `std::shared_ptr<ProcessGroup>`, as
  /// `DistributedDataParallel` wants it. The group is the same in each `run`, until one of them
  /// throws or closes it; then the next `run` makes new groups. The calling thread's grad mode,
  /// inference mode and autocast hold in all ranks.
  ///
  /// Where a rank throws, its group is given up: the others' collectives fail with `PeerLostError`
  /// instead of waiting. A rank that is in no collective goes on until its next one. Groups that
  /// the program has made of it (`split`, `Mesh`) fail in the same way where `body` alone holds
  /// them; in those that it keeps from one `run` to the next, ranks wait until the timeout.
  ///
  /// Blocks: the calling thread, until `body` has returned, or thrown, in all ranks.
  /// Throws: what the first rank threw that did not just lose another one, of the same type. The
  /// text of a `c10::Error`, of `std::runtime_error` and `std::logic_error`, and of the types that
  /// `stdexcept` derives from these, gets the rank's number; `failed_rank()` has it in any case.
  /// `c10::Error` where a `run` of this object is under way.
  template <typename Body>
  void run(Body&& body) {
    constexpr bool takes_reference = std::is_invocable_v<Body&, ProcessGroup&, c10::Device>;
    static_assert(
        takes_reference ||
            std::is_invocable_v<Body&, const std::shared_ptr<ProcessGroup>&, c10::Device>,
        "LocalRanks::run: the function must take (lockstep::ProcessGroup&, torch::Device) or "
        "(std::shared_ptr<lockstep::ProcessGroup>, torch::Device)");
    run_in_ranks([&body](const std::shared_ptr<ProcessGroup>& group, c10::Device device) {
      if constexpr (takes_reference) {
        body(*group, device);
      } else {
        body(group, device);
      }
    });
  }

  /// How many ranks there are.
  [[nodiscard]] int size() const noexcept;
  /// The device of each rank.
  [[nodiscard]] const std::vector<c10::Device>& devices() const noexcept;
  /// The rank whose exception the last `run` threw; empty where it threw none of a rank.
  [[nodiscard]] std::optional<int> failed_rank() const noexcept;

  /// The random numbers of that rank on its device. In the rank's thread, operators draw from it
  /// that are given no generator, as dropout; `torch::manual_seed` seeds those of the process
  /// alone, of which rank 0 has the one on the CPU unless there is the option `seed`. The state of
  /// all others is in no checkpoint of the program, unless it saves `generator(rank).get_state()`.
  ///
  /// Throws: `c10::Error` for a rank that there is not.
  [[nodiscard]] at::Generator generator(int rank) const;

  /// Closes the groups, which waits for nothing but these threads. The next `run` makes new ones.
  /// After a `run` that threw there is nothing to close.
  ///
  /// Blocks: the calling thread.
  /// Throws: what `ProcessGroup::close` throws in a rank.
  void close();

 private:
  struct State;
  using Body = std::function<void(const std::shared_ptr<ProcessGroup>&, c10::Device)>;

  void run_in_ranks(const Body& body);

  std::unique_ptr<State> state_;
};

}  // namespace lockstep
