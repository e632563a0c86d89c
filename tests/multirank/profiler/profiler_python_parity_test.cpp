// SPDX-License-Identifier: BSD-3-Clause
// The C++ side of tests/python/profiler_parity_driver.py, which compares what this writes.
#include <cstdlib>
#include <fstream>

#include "multirank/profiler/profiler_test_support.h"

namespace lockstep::testing {
namespace {

using training::Profiler;
using training::ProfilerOptions;

class ProfilerPythonParity : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* given = std::getenv("LOCKSTEP_PARITY_FOLDER");
    if (given == nullptr) GTEST_SKIP() << "profiler_parity_driver.py runs this";
    folder = given;
  }
  std::filesystem::path folder;
};

/// As `make_tensor` of the driver.
torch::Tensor make_tensor(at::IntArrayRef shape) {
  return torch::arange(c10::multiply_integers(shape), torch::kFloat)
      .reshape(shape)
      .mul(0.1)
      .sin()
      .requires_grad_();
}

TEST_F(ProfilerPythonParity, WritesATrace) {
  const auto group = init_process_group();
  const auto data = make_tensor({5, 4}).detach();
  std::vector<torch::Tensor> parameters{make_tensor({8, 4}), make_tensor({8}), make_tensor({2, 8}),
                                        make_tensor({2})};
  Profiler profiler(group, folder,
                    ProfilerOptions().wait(1).warmup(1).active(3).shapes(true).memory(true));
  for (int step = 0; step < 6; ++step) {
    const auto hidden = torch::tanh(torch::linear(data, parameters[0], parameters[1]));
    const auto loss = torch::linear(hidden, parameters[2], parameters[3]).square().mean();
    // C++ would make this gradient by other operators than Python does.
    loss.backward(torch::ones_like(loss, {}, torch::MemoryFormat::Preserve));
    for (auto& parameter : parameters) parameter.mutable_grad().reset();
    const auto now = training::TraceSpan::Clock::now();
    profiler.add({"span \"of\"\n the \u00e4 program", now, now, "row \u00e4", 7});
    profiler.step();
  }
  group->close();
}

TEST_F(ProfilerPythonParity, WritesTheScheduleOfManyOptions) {
  std::ofstream table(folder / "schedules.txt");
  for (int number = 0; number < 3 * 3 * 3 * 3 * 3 * 2; ++number) {
    int rest = number;
    const auto draw = [&rest](int count) {
      const int drawn = rest % count;
      rest /= count;
      return drawn;
    };
    const int wait = draw(3), warmup = draw(3), active = 1 + draw(3), repeat = draw(3);
    const int skip_first = 2 * draw(3), skip_first_wait = draw(2);
    const auto options = ProfilerOptions()
                             .wait(wait)
                             .warmup(warmup)
                             .active(active)
                             .repeat(repeat)
                             .skip_first(skip_first)
                             .skip_first_wait(skip_first_wait != 0);
    table << wait << ' ' << warmup << ' ' << active << ' ' << repeat << ' ' << skip_first << ' '
          << skip_first_wait << ' ';
    for (int step = 0; step < 24; ++step) {
      table << static_cast<int>(training::scheduled_action(options, step));
    }
    table << '\n';
  }
}

}  // namespace
}  // namespace lockstep::testing
