// SPDX-License-Identifier: BSD-3-Clause
#include "workers/failure_records.h"

#include <gtest/gtest.h>

#include <string>

#include "unit/workers/channel_test_support.h"
#include "workers/task_channel.h"

namespace lockstep::workers {
namespace {

TEST(FailureRecords, LowestFailureIsReported) {
  TaskChannel channel({1, 3, 8, 0});
  const auto items = numbers(0, 3);
  channel.assign(0, task(1, items));
  const auto a = channel.claim(0);
  const auto b = channel.claim(1);
  const auto c = channel.claim(2);
  Failure failure;
  failure.position = 2;
  failure.message = "third";
  channel.fail(*c, failure);
  failure.position = 0;
  failure.worker = 1;
  failure.type = "T";
  failure.message = std::string(5000, 'x');
  EXPECT_FALSE(channel.is_futile(*b));
  channel.fail(*a, failure);
  EXPECT_TRUE(channel.is_futile(*b));  // what comes after a failure is of no use
  EXPECT_EQ(channel.state(0), SlotState::Filling);
  failure.position = 1;
  channel.fail(*b, failure);
  ASSERT_EQ(channel.state(0), SlotState::Ready);
  const auto found = channel.failures().first(0);
  EXPECT_EQ(found->position, 0U);
  EXPECT_EQ(found->worker, 1U);
  EXPECT_EQ(found->type, "T");
  EXPECT_EQ(found->message.substr(0, 3), "xxx");
  EXPECT_LT(found->message.size(), 5000U);
}

TEST(FailureRecords, NoteIsOfTheFirstItemAndOfThisTask) {
  TaskChannel channel({1, 1, 4, 0});
  const auto items = numbers(5, 2);
  for (const std::uint64_t sequence : {1U, 2U}) {
    channel.assign(0, task(sequence, items));
    EXPECT_FALSE(channel.failures().noted(0));
    EXPECT_EQ(channel.items().replaced(0), 0U);
    for (int i = 0; i < 2; ++i) {
      const auto claim = channel.claim(0);
      Failure failure;
      failure.item = claim->items[0];
      failure.message = "broken";
      channel.failures().note(0, failure);
      channel.items().replace(0, claim->first, 7);
      channel.finish(*claim);
    }
    ASSERT_EQ(channel.state(0), SlotState::Ready);
    EXPECT_FALSE(channel.failures().first(0));
    EXPECT_EQ(channel.failures().noted(0)->item, 5);
    EXPECT_EQ(channel.failures().noted(0)->message, "broken");
    EXPECT_EQ(channel.items().replaced(0), 2U);
    EXPECT_EQ(channel.items().of(0)[1], 7);
    channel.release(0);
  }
}

TEST(FailureRecords, WithoutRoomTheFirstFailureIsKnownAndNotWhatItSaid) {
  constexpr std::size_t kItems = 8;
  TaskChannel channel({1, 1, kItems});  // room for three
  const auto items = numbers(0, kItems);
  channel.assign(0, task(1, items));
  for (std::size_t position = kItems; position-- > 0;) {
    Failure failure;
    failure.position = position;
    failure.message = "item " + std::to_string(position);
    channel.failures().write(0, failure);
  }
  EXPECT_EQ(channel.failures().first_failed(0), 0U);
  EXPECT_EQ(channel.failures().first(0)->position, 0U);
  EXPECT_EQ(channel.failures().first(0)->message.find("item"), std::string::npos);
}

TEST(FailureRecords, AreOfThisTask) {
  TaskChannel channel({1, 1, 2});
  const auto items = numbers(0, 2);
  for (const std::uint64_t sequence : {1U, 2U}) {
    channel.assign(0, task(sequence, items));
    EXPECT_FALSE(channel.failures().first(0));
    EXPECT_FALSE(channel.failures().has_failed_before(0, 2));
    Failure failure;
    failure.position = 1;
    failure.message = std::to_string(sequence);
    channel.failures().write(0, failure);
    EXPECT_TRUE(channel.failures().has_failed_before(0, 2));
    EXPECT_FALSE(channel.failures().has_failed_before(0, 1));
    EXPECT_EQ(channel.failures().first(0)->message, std::to_string(sequence));
  }
}

// A worker took the record and died before it wrote.
TEST(FailureRecords, ARecordOfAnotherTaskIsNotReported) {
  BareChannel channel({1, 1, 2});
  FailureRecords failures(channel.layout);
  channel.write(0, 1, 2);
  failures.clear(0);
  Failure failure;
  failure.message = "of the first task";
  failures.write(0, failure);
  channel.write(0, 2, 2);
  failures.clear(0);
  auto& words = channel.layout.slot(0);
  words.failure_records_taken = 1;
  words.first_failed = 0;
  ASSERT_TRUE(failures.first(0));
  EXPECT_NE(failures.first(0)->message, failure.message);
}

}  // namespace
}  // namespace lockstep::workers
