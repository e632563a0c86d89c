// SPDX-License-Identifier: BSD-3-Clause
// Serves several networks at once, each in a process of its own, and shows that together they are
// better than each alone:  ensemble --kill
#include "run_program.h"
#include "trained_models.h"

#include <lockstep/inference/ensemble.h>
#include <lockstep/inference/models.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace lockstep::inference;
using std::chrono::milliseconds;

struct Options {
  example::ModelOptions models;
  std::int64_t requests = 2000;  // an image each
  std::size_t under_way = 8;     // requests at a time
  std::int64_t quorum = 0;       // 0: all but one
  bool kill = false;
};

Ensemble make_ensemble(const Options& options, const std::vector<std::string>& files) {
  std::vector<Member> members;
  for (const auto& file : files) {
    const auto name = std::filesystem::path(file).stem().string();
    // Runs in the member's process, and there again when the member was killed.
    const auto make = [arch = options.models.arch] { return example::make_net(arch); };
    members.push_back(member(name, from_safetensors(file, make)).threads(1));
  }
  const auto all = static_cast<std::int64_t>(members.size());
  return Ensemble(
      members, EnsembleOptions()
                   .combine(mean_of_probabilities())
                   .quorum(options.quorum > 0 ? options.quorum : std::max<std::int64_t>(1, all - 1))
                   .deadline(milliseconds(10'000))
                   .max_batch(8)
                   .sample(torch::zeros({1, 1, 28, 28}))
                   .member_outputs(true));
}

struct Right {
  std::int64_t of_ensemble = 0;
  std::vector<std::int64_t> of_members;
  std::vector<std::int64_t> answers_of_members;
  std::int64_t partial = 0;  // answers without one of the members

  void add(const Answer& answer, std::int64_t label) {
    of_ensemble += answer.output.argmax(1).item<std::int64_t>() == label ? 1 : 0;
    partial += answer.missing.empty() ? 0 : 1;
    for (const auto& one : answer.members) {
      ++answers_of_members[one.member];
      of_members[one.member] += one.output.argmax(1).item<std::int64_t>() == label ? 1 : 0;
    }
  }
};

Right serve(Ensemble& ensemble, const Options& options, std::size_t members) {
  auto images = example::fashion_mnist(options.models.data, false);
  Right right;
  right.of_members.resize(members);
  right.answers_of_members.resize(members);
  std::deque<std::pair<PendingAnswer, std::int64_t>> pending;
  const auto take_one = [&] {
    right.add(pending.front().first.get(), pending.front().second);
    pending.pop_front();
  };
  for (std::int64_t request = 0; request < options.requests; ++request) {
    if (options.kill && request == options.requests / 2) {
      ::kill(ensemble.statistics().members[0].pids[0], SIGKILL);
    }
    if (pending.size() == options.under_way) take_one();
    const auto image = images.get(static_cast<std::size_t>(request));
    pending.emplace_back(ensemble.submit(image.data.unsqueeze(0)),
                         image.target.item<std::int64_t>());
  }
  while (!pending.empty()) take_one();
  return right;
}

double ms(std::chrono::nanoseconds time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

void report(const Ensemble& ensemble, const Right& right, std::int64_t requests) {
  const auto statistics = ensemble.statistics();
  double best = 0;
  std::uint64_t restarts = 0;
  for (std::size_t at = 0; at < statistics.members.size(); ++at) {
    const auto& one = statistics.members[at];
    const auto answers = std::max<std::int64_t>(1, right.answers_of_members[at]);
    const double accuracy =
        static_cast<double>(right.of_members[at]) / static_cast<double>(answers);
    best = std::max(best, accuracy);
    restarts += one.restarts;
    std::printf("%-10s accuracy %.4f, p50 %.2f ms, p99 %.2f ms, p99.9 %.2f ms, restarts %llu\n",
                one.name.c_str(), accuracy, ms(one.latency.p50), ms(one.latency.p99),
                ms(one.latency.p999), static_cast<unsigned long long>(one.restarts));
  }
  std::printf(
      "result: accuracy=%.4f best_member=%.4f p50_ms=%.2f p99_ms=%.2f p999_ms=%.2f "
      "answered=%llu partial=%lld restarts=%llu\n",
      static_cast<double>(right.of_ensemble) / static_cast<double>(requests), best,
      ms(statistics.latency.p50), ms(statistics.latency.p99), ms(statistics.latency.p999),
      static_cast<unsigned long long>(statistics.answered), static_cast<long long>(right.partial),
      static_cast<unsigned long long>(restarts));
}

void run(const Options& options) {
  at::set_num_threads(1);  // for so small networks; the other cores are for the members
  const auto files = example::find_or_train_models(options.models);
  auto ensemble = make_ensemble(options, files);
  const auto right = serve(ensemble, options, files.size());
  report(ensemble, right, options.requests);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Serves several networks as one ensemble", "ensemble");
  app.add_option("--data", options.models.data, "Folder of Fashion-MNIST")
      ->check(CLI::ExistingDirectory);
  app.add_option("--models", options.models.models, "Weights, as resnet --save writes them")
      ->check(CLI::ExistingFile);
  app.add_option("--arch", options.models.arch, "Architecture of the models");
  app.add_option("--folder", options.models.folder, "Where models lie that are trained here");
  app.add_option("--count", options.models.count, "Models to train")->check(CLI::Range(1, 16));
  app.add_option("--images", options.models.images, "Images to train each of them with")
      ->check(CLI::Range(64, 60000));
  app.add_option("--requests", options.requests, "Test images to ask about")
      ->check(CLI::Range(1, 10000));
  app.add_option("--under-way", options.under_way, "Requests at a time")->check(CLI::Range(1, 64));
  app.add_option("--quorum", options.quorum, "Members that must answer (default: all but one)")
      ->check(CLI::PositiveNumber);
  app.add_flag("--kill", options.kill, "Kill a member halfway");
  return example::run_program(app, argc, argv, [&] { run(options); });
}
