// SPDX-License-Identifier: BSD-3-Clause
#include "workers/task_items.h"

#include <gtest/gtest.h>

#include "unit/workers/channel_test_support.h"
#include "workers/item_word.h"
#include "workers/task_channel.h"

namespace lockstep::workers {
namespace {

TEST(TaskItems, AreLeftOutAndReplacedUntilTheNextTask) {
  TaskChannel channel({1, 1, 4});
  const auto items = numbers(5, 3);
  for (const std::uint64_t sequence : {1U, 2U}) {
    channel.assign(0, task(sequence, items));
    auto& of_task = channel.items();
    EXPECT_EQ(of_task.of(0).size(), 3U);
    EXPECT_EQ(of_task.replaced(0), 0U);
    EXPECT_FALSE(of_task.is_left_out(0, 1));
    of_task.leave_out(0, 1);
    of_task.replace(0, 2, 40);
    of_task.mark_to_be_replaced(0, 0, of_task.at(0, 0));
    EXPECT_TRUE(of_task.is_left_out(0, 1));
    EXPECT_EQ(of_task.at(0, 2), 40);
    EXPECT_EQ(of_task.replaced(0), 1U);
    EXPECT_EQ(of_task.at(0, 0), to_be_replaced(5));
    EXPECT_EQ(item_of(of_task.at(0, 0)), 5);
    EXPECT_FALSE(of_task.is_left_out(0, 0));
  }
}

}  // namespace
}  // namespace lockstep::workers
