// SPDX-License-Identifier: BSD-3-Clause
#include "lockstep_step.h"

#include <lockstep/comm/init.h>
#include <lockstep/parallel/distributed_data_parallel.h>

namespace bench {
namespace {

template <typename Model>
void train(const Settings& settings, lockstep::ProcessGroup& group, Model& model) {
  const auto figures = measure(
      settings, group.rank(), model, [] {}, [&] { group.barrier(); });
  write_figures(settings, group.rank(), figures);
  group.close();
}

}  // namespace

void run_lockstep(const Settings& settings) {
  auto group = lockstep::init_process_group();
  auto net = make_model(settings);
  lockstep::DistributedDataParallel<decltype(net)> model(net, group);
  train(settings, *group, model);
}

void run_alone(const Settings& settings) {
  auto group = lockstep::init_process_group();
  auto net = make_model(settings);
  train(settings, *group, net);
}

}  // namespace bench
