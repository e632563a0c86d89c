// SPDX-License-Identifier: BSD-3-Clause
// main() of the test programs that run under mpirun or as torchrun starts them, one process a rank.
#include <gtest/gtest.h>
#include <lockstep/core/environment.h>

#include <cstdio>

#include "support/expected_world.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const auto environment = lockstep::LaunchEnvironment::detect();
  const auto difference = lockstep::testing::ExpectedWorld(argc, argv).difference_to(environment);
  if (!difference.empty()) {
    std::fprintf(stderr, "rank_main: %s\n", difference.c_str());
    return 1;
  }
  // One report is enough where all is well; failures are printed by whoever has them, with the rank
  // in front.
  if (environment.rank != 0) {
    auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    class FailurePrinter : public ::testing::EmptyTestEventListener {
     public:
      explicit FailurePrinter(int rank) : rank_(rank) {}
      void OnTestPartResult(const ::testing::TestPartResult& result) override {
        if (!result.failed()) return;
        std::fprintf(stderr, "[rank %d] %s:%d: %s\n", rank_,
                     result.file_name() == nullptr ? "?" : result.file_name(), result.line_number(),
                     result.message());
      }

     private:
      int rank_;
    };
    listeners.Append(new FailurePrinter(environment.rank));
  }
  return RUN_ALL_TESTS();
}
