// SPDX-License-Identifier: BSD-3-Clause
// One rank of the benchmark of collectives; mpirun starts it. Every size, every round, every side
// in turns; figures go to a file a rank.
#include "collectives.h"

#include <lockstep/lockstep.h>
#include <mpi.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <map>

namespace bench {
namespace {

using Clock = std::chrono::steady_clock;

struct Settings {
  std::string op = "all_reduce";
  std::vector<std::size_t> sizes;
  std::vector<std::string> sides;  // empty: all
  int rounds = 5;
  double seconds = 0.1;  // that one side is timed for, in a round
  std::string output;

  [[nodiscard]] bool wants(const std::string& side) const {
    return sides.empty() || std::find(sides.begin(), sides.end(), side) != sides.end();
  }
};

const std::map<std::string, Op> kOps{{"all_reduce", Op::AllReduce},
                                     {"broadcast", Op::Broadcast},
                                     {"all_gather", Op::AllGather},
                                     {"reduce_scatter", Op::ReduceScatter},
                                     {"all_to_all", Op::AllToAll}};

using Sides = std::vector<std::unique_ptr<Side>>;

/// The barrier between timings. On one host, ranks that wait sleep, so that none takes the other's
/// core.
class Barrier {
 public:
  Barrier() {
    auto environment = lockstep::LaunchEnvironment::detect();
    environment.job_id += " barrier";
    const bool is_one_host = environment.local_size == environment.world_size;
    group_ = lockstep::init_process_group(
        lockstep::ProcessGroupOptions()
            .backend(is_one_host ? lockstep::Backend::SharedMemory : lockstep::Backend::Auto)
            .environment(environment));
  }
  ~Barrier() {
    // After an error, the other ranks may never come.
    if (std::uncaught_exceptions() == 0) group_->close();
  }
  Barrier(const Barrier&) = delete;
  Barrier& operator=(const Barrier&) = delete;

  void wait() { group_->barrier(); }
  double largest(double value) {
    const auto tensor = torch::full({1}, value, torch::kDouble);
    group_->all_reduce(tensor, lockstep::ReduceOp::Max).wait();
    return tensor.item<double>();
  }
  [[nodiscard]] int rank() const { return group_->rank(); }
  [[nodiscard]] int size() const { return group_->size(); }
  [[nodiscard]] bool is_on_one_host() const { return group_->local_size() == group_->size(); }

 private:
  std::shared_ptr<lockstep::ProcessGroup> group_;
};

double seconds_of(const Prepared& prepared, int times) {
  const auto start = Clock::now();
  for (int i = 0; i < times; ++i) prepared.call();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Running {
  std::string side;
  Prepared prepared;
  int times = 1;
  std::size_t wrong = 0;
};

/// Checks a result, warms up, and finds out how many calls take as long as asked.
Running start(Side& side, Op op, std::size_t bytes, Barrier& barrier, double seconds) {
  Running running{side.name(), side.prepare(op, bytes)};
  running.prepared.fill(barrier.rank());
  barrier.wait();
  running.prepared.call();
  barrier.wait();
  running.wrong = running.prepared.wrong(barrier.size());
  barrier.wait();
  running.prepared.call();
  const double once = barrier.largest(seconds_of(running.prepared, 2)) / 2;
  running.times = static_cast<int>(std::clamp(seconds / once, 3.0, 20000.0));
  return running;
}

void measure(const Settings& settings, Sides& sides, Barrier& barrier, std::ostream& figures) {
  const Op op = kOps.at(settings.op);
  for (const std::size_t bytes : settings.sizes) {
    std::vector<Running> all;
    for (const auto& side : sides) {
      if (side->can(op) && settings.wants(side->name()))
        all.push_back(start(*side, op, bytes, barrier, settings.seconds));
    }
    for (int round = 0; round < settings.rounds; ++round) {
      std::rotate(all.begin(), all.begin() + 1, all.end());
      for (const Running& running : all) {
        barrier.wait();
        running.prepared.call();
        const double each = seconds_of(running.prepared, running.times) / running.times;
        figures << bytes << ' ' << running.side << ' ' << round << ' ' << each * 1e6 << ' '
                << running.wrong << '\n';
      }
    }
  }
}

Sides make_sides(const World& world, bool is_on_one_host) {
  Sides sides;
  const auto add = [&](Sides more) {
    for (auto& side : more) sides.push_back(std::move(side));
  };
  if (is_on_one_host) {
    add(make_mpi_sides());
    add(make_shared_memory_sides());
  } else {
    sides.push_back(make_mpi_side());
    add(make_network_sides());
  }
  add(make_gloo_sides(world));
  return sides;
}

/// Returns whether the figures were written.
bool measure_all_sides(const Settings& settings) {
  Barrier barrier;
  const World world{barrier.rank(), barrier.size(), settings.output};
  std::ofstream figures(settings.output + "/rank" + std::to_string(world.rank) + ".txt");
  {
    Sides sides = make_sides(world, barrier.is_on_one_host());
    for (const auto& side : sides) {
      const std::string backend = side->chosen_backend();
      // The driver reads these lines.
      if (world.rank == 0 && !backend.empty()) {
        std::cout << "backend " << side->name() << ' ' << backend << std::endl;
      }
    }
    measure(settings, sides, barrier, figures);
  }
  figures << "0 fingerprint 0 " << fingerprint_seconds(world.size) * 1e6 << " 0\n";
  figures.close();
  return figures.good();
}

int run(const Settings& settings) {
  at::set_num_threads(1);
  start_mpi();
  const bool is_written = measure_all_sides(settings);
  MPI_Finalize();
  return is_written ? 0 : 1;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  bench::Settings settings;
  CLI::App app("One rank of the benchmark of collectives.");
  app.add_option("--op", settings.op)->check(CLI::IsMember(bench::kOps));
  app.add_option("--sizes", settings.sizes, "bytes")->required();
  app.add_option("--sides", settings.sides, "all unless named");
  app.add_option("--rounds", settings.rounds)->check(CLI::PositiveNumber);
  app.add_option("--seconds", settings.seconds)->check(CLI::PositiveNumber);
  app.add_option("--output", settings.output, "folder for figures")->required();
  CLI11_PARSE(app, argc, argv);
  try {
    return bench::run(settings);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
