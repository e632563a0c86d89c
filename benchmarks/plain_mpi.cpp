// SPDX-License-Identifier: BSD-3-Clause
#include "plain_mpi.h"

#include <mpi.h>

#include <array>
#include <limits>
#include <stdexcept>

namespace bench {
namespace {

// Errors end the program: MPI's default handler does that, as in the programs this stands for.
void average_gradients(const std::vector<torch::Tensor>& parameters, int world_size) {
  for (const auto& parameter : parameters) {
    auto gradient = parameter.grad();
    if (!gradient.defined()) continue;
    if (gradient.numel() > std::numeric_limits<int>::max()) {
      throw std::length_error("a gradient has more elements than MPI_Allreduce can count");
    }
    MPI_Allreduce(MPI_IN_PLACE, gradient.data_ptr<float>(), static_cast<int>(gradient.numel()),
                  MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    gradient.div_(world_size);
  }
}

}  // namespace

void run_plain_mpi(const Settings& settings) {
  MPI_Init(nullptr, nullptr);
  int rank = 0;
  int size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);

  with_model(settings.arch, settings.seed, [&](auto model) {
    const auto parameters = model->parameters();
    for (const auto& parameter : parameters) {
      MPI_Bcast(parameter.template data_ptr<float>(), static_cast<int>(parameter.numel()),
                MPI_FLOAT, 0, MPI_COMM_WORLD);
    }
    const auto measured = measure(
        settings, batches_of(settings, rank, size), model,
        [&] { average_gradients(parameters, size); }, [] { MPI_Barrier(MPI_COMM_WORLD); },
        NoPause());
    write_figures(settings, rank, measured);
  });
  MPI_Finalize();
}

std::string mpi_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  MPI_Get_library_version(text.data(), &length);
  const std::string version(text.data(), static_cast<std::size_t>(length));
  return version.substr(0, version.find_first_of(",\n"));
}

}  // namespace bench
