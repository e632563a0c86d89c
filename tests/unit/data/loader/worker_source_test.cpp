// SPDX-License-Identifier: BSD-3-Clause
// What the rank finds out before it asks for a batch, and when it says so.
#include "data/loader/worker_source.h"

#include "support/loader_test_support.h"

namespace lockstep::data::detail {
namespace {

using std::chrono::milliseconds;

// A shard of four samples. The thread that reads it stands still until the test lets it go on.
struct GatedStream {
  struct Gate {
    std::atomic<bool> is_open{false};
    std::atomic<int> given{0};
  };

  Gate* gate;
  std::int64_t at = 0;

  void reset(std::size_t, std::size_t, std::int64_t) { at = 0; }
  std::optional<torch::Tensor> next() {
    while (!gate->is_open) std::this_thread::sleep_for(milliseconds(1));
    if (at == 4) return std::nullopt;
    ++gate->given;
    return torch::full({2}, at++);
  }
};

class WorkerSourceTest : public ::testing::Test {
 protected:
  ~WorkerSourceTest() override { gate.is_open = true; }

  static BatchFacts facts() {
    BatchFacts facts;
    facts.batch_size = facts.largest_batch = 2;
    facts.shards = facts.all_shards = 1;
    return facts;
  }

  GatedStream::Gate gate;
  WorkerSource source{source_of(std::make_shared<GatedStream>(GatedStream{&gate}), StackSamples{}),
                      facts(),
                      options_with(1, 2).kind(WorkerKind::Thread).timeout(milliseconds(40))};
};

TEST_F(WorkerSourceTest, BatchThatIsGivenUpIsLostWhenItIsAskedFor) {
  source.start({});
  EXPECT_FALSE(source.is_ready());
  EXPECT_TRUE(source.has_next());
  // Neither waits once more, and the program knows nothing of it yet.
  const double stall = source.statistics().stall_seconds;
  EXPECT_TRUE(source.has_next());
  EXPECT_TRUE(source.is_ready());
  EXPECT_EQ(source.delivered(), 0U);
  EXPECT_EQ(source.statistics().lost_batches, 0U);
  try {
    static_cast<void>(source.next());
    ADD_FAILURE() << "a batch came";
  } catch (const WorkerError& error) {
    EXPECT_EQ(error.failure(), WorkerFailure::TimedOut);
    EXPECT_EQ(error.batch_index(), 0);
  }
  EXPECT_EQ(source.statistics().stall_seconds, stall);
  EXPECT_EQ(source.delivered(), 1U);
  EXPECT_EQ(source.statistics().lost_batches, 1U);
}

TEST_F(WorkerSourceTest, BatchThatComesAllTheSameIsDelivered) {
  source.start({});
  EXPECT_TRUE(source.has_next());
  gate.is_open = true;
  ASSERT_TRUE(eventually([&] { return gate.given == 4; }));  // so the first batch is finished
  EXPECT_TRUE(source.has_next());
  EXPECT_EQ(source.next().tensor()[1][0].item<std::int64_t>(), 1);
  ASSERT_TRUE(eventually([&] { return source.is_ready(); }));
  EXPECT_EQ(source.next().tensor()[1][0].item<std::int64_t>(), 3);
  EXPECT_TRUE(eventually([&] { return !source.has_next(); }));
  EXPECT_EQ(source.statistics().lost_batches, 0U);
}

}  // namespace
}  // namespace lockstep::data::detail
