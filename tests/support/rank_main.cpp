// SPDX-License-Identifier: BSD-3-Clause
// main() of the test programs that run under mpirun, one process a rank.
#include <gtest/gtest.h>
#include <lockstep/core/environment.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  int expected = 0;
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], "--expected-world-size") == 0) expected = std::atoi(argv[i + 1]);
  }
  const auto environment = lockstep::LaunchEnvironment::detect();
  // A test that runs in another world than it was meant for proves nothing.
  if (expected == 0 || environment.world_size != expected) {
    std::fprintf(stderr, "rank_main: the world has %d ranks, --expected-world-size says %d\n",
                 environment.world_size, expected);
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
