// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/comm/init.h>
#include <mpi.h>

#include "collective_tensors.h"
#include "lockstep_side.h"

namespace bench {

namespace {

/// MPI's own collectives, as a program without Lockstep calls them.
class MpiSide final : public Side {
 public:
  [[nodiscard]] std::string name() const override { return "mpi"; }
  [[nodiscard]] bool can(Op) const override { return true; }
  [[nodiscard]] Prepared prepare(Op op, std::size_t bytes) override {
    int rank = 0;
    int size = 1;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    const auto tensors = make_tensors(
        op, bytes, size, [](std::int64_t elements) { return torch::zeros({elements}); });
    return prepared(op, tensors, rank, call_of(op, tensors, size));
  }

 private:
  static std::function<void()> call_of(Op op, const Tensors& tensors, int size) {
    float* input = tensors.input.data_ptr<float>();
    float* output = tensors.output.data_ptr<float>();
    const int all = static_cast<int>(std::max(tensors.input.numel(), tensors.output.numel()));
    const int share = all / size;
    switch (op) {
      case Op::AllReduce:
        return [=, keep = tensors] {
          MPI_Allreduce(MPI_IN_PLACE, input, all, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        };
      case Op::Broadcast:
        return [=, keep = tensors] { MPI_Bcast(input, all, MPI_FLOAT, 0, MPI_COMM_WORLD); };
      case Op::AllGather:
        return [=, keep = tensors] {
          MPI_Allgather(input, share, MPI_FLOAT, output, share, MPI_FLOAT, MPI_COMM_WORLD);
        };
      case Op::ReduceScatter:
        return [=, keep = tensors] {
          MPI_Reduce_scatter_block(input, output, share, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        };
      case Op::AllToAll:
        return [=, keep = tensors] {
          MPI_Alltoall(input, share, MPI_FLOAT, output, share, MPI_FLOAT, MPI_COMM_WORLD);
        };
    }
    return {};
  }
};

}  // namespace

void start_mpi() {
  int level = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level);
}

std::unique_ptr<Side> make_mpi_side() {
  return std::make_unique<MpiSide>();
}

std::vector<std::unique_ptr<Side>> make_mpi_sides() {
  std::vector<std::unique_ptr<Side>> sides;
  sides.push_back(make_lockstep_side(
      "lockstep_mpi",
      lockstep::init_process_group(lockstep::ProcessGroupOptions().backend(lockstep::Backend::Mpi)),
      false));
  sides.push_back(make_mpi_side());
  return sides;
}

}  // namespace bench
