// SPDX-License-Identifier: BSD-3-Clause
// A rank that trains until a fault ends it: fault_rank FOLDER SECONDS, the timeout of its calls.
// What it sees, it writes to files in FOLDER, because a cut link cuts off what the launcher would
// pass on. faults_test.sh starts it.
#include <lockstep/lockstep.h>
#include <signal.h>
#include <torch/torch.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

namespace lockstep::testing {
namespace {

constexpr std::chrono::seconds kPatience{300};

class Report {
 public:
  explicit Report(std::filesystem::path folder, int rank)
      : folder_(std::move(folder)), name_("." + std::to_string(rank)) {}

  /// Whoever sees the file sees all of the text.
  void write(const std::string& what, const std::string& text) const {
    const auto file = folder_ / (what + name_);
    std::ofstream(file.string() + ".part") << text << "\n";
    std::filesystem::rename(file.string() + ".part", file);
  }
  /// A launcher may end all ranks when the first of them ends: none does before all have reported.
  void wait_for_the_end() const {
    const auto limit = std::chrono::steady_clock::now() + kPatience;
    while (!std::filesystem::exists(folder_ / "end") && std::chrono::steady_clock::now() < limit) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }

 private:
  std::filesystem::path folder_;
  std::string name_;
};

void train(const Report& report, std::chrono::seconds timeout) {
  const auto group = init_process_group();
  std::unique_ptr<CallScope> limit;
  torch::nn::Sequential net(torch::nn::Linear(1024, 1024), torch::nn::Linear(1024, 1024));
  DistributedDataParallel<torch::nn::Sequential> model(
      net, group, DistributedDataParallelOptions().bucket_cap_bytes(std::size_t{1} << 20));
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.01));
  for (int step = 0;; ++step) {
    if (step == 3) {
      limit.reset(new CallScope(group->with(CallOptions().timeout(timeout))));
      report.write("training", std::to_string(::getpid()));
    }
    optimizer.zero_grad();
    model->forward(torch::ones({1, 1024})).mean().backward();
    optimizer.step();
  }
}

int run(const char* folder, std::chrono::seconds timeout) {
  // A launcher that loses a host asks the other ranks to end. First they say what they saw.
  ::signal(SIGTERM, SIG_IGN);
  at::set_num_threads(1);
  const Report report(folder, LaunchEnvironment::detect().rank);
  try {
    train(report, timeout);
  } catch (const c10::Error& error) {
    report.write("saw", error.what_without_backtrace());
  } catch (const std::exception& error) {
    report.write("saw", std::string("another kind of error: ") + error.what());
  }
  report.wait_for_the_end();
  return 1;
}

}  // namespace
}  // namespace lockstep::testing

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: fault_rank FOLDER SECONDS\n");
    return 2;
  }
  // On a busy machine a comparison may find MPI faster, which tells nobody of a cut link.
  ::setenv("LOCKSTEP_BETWEEN_HOSTS", "tcp", 1);
  return lockstep::testing::run(argv[1], std::chrono::seconds(std::stoi(argv[2])));
}
