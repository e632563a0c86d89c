// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

// One rank of the benchmark of collectives: the same call by several libraries ("sides"), in turns.
namespace bench {

enum class Op { AllReduce, Broadcast, AllGather, ReduceScatter, AllToAll };

/// What one side does, prepared for one size. All tensors are of float.
struct Prepared {
  std::function<void()> call;                   ///< once, to its end
  std::function<void(int rank)> fill;           ///< before a call that is checked
  std::function<std::size_t(int world)> wrong;  ///< elements that are not as they should be
};

class Side {
 public:
  virtual ~Side() = default;
  [[nodiscard]] virtual std::string name() const = 0;
  /// `bytes`: of what nccl-tests calls the size: the larger of the input and the output of a rank.
  [[nodiscard]] virtual bool can(Op op) const = 0;
  [[nodiscard]] virtual Prepared prepare(Op op, std::size_t bytes) = 0;
  /// The backend that Lockstep chose for this side; empty where nothing was to choose.
  [[nodiscard]] virtual std::string chosen_backend() const { return ""; }
};

struct World {
  int rank = 0;
  int size = 1;
  std::string folder;  ///< for figures, and for gloo's meeting
};

/// Lockstep in shared memory: tensors of the group's memory, ordinary ones, and the limit.
[[nodiscard]] std::vector<std::unique_ptr<Side>> make_shared_memory_sides();
/// Starts MPI as most programs do. Lockstep would ask for locks that plain programs do not pay for.
void start_mpi();
/// Lockstep over MPI, and MPI itself.
[[nodiscard]] std::vector<std::unique_ptr<Side>> make_mpi_sides();
/// MPI itself.
[[nodiscard]] std::unique_ptr<Side> make_mpi_side();
/// Lockstep between hosts, on the backend that it chooses for ranks of mpirun, and the one that it
/// chooses for ranks that torchrun starts; tensors of the group's memory.
[[nodiscard]] std::vector<std::unique_ptr<Side>> make_network_sides();
/// c10d's gloo. None where its headers were not found.
[[nodiscard]] std::vector<std::unique_ptr<Side>> make_gloo_sides(const World& world);

/// Seconds that announcing and comparing fingerprints takes in one all-reduce.
[[nodiscard]] double fingerprint_seconds(int world_size);

}  // namespace bench
