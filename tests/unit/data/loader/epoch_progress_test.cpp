// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/data/loader/detail/epoch_progress.h>

namespace lockstep::data::detail {
namespace {

TEST(EpochProgress, IsAtTheStartOfEpochZeroAtFirst) {
  const EpochProgress progress;
  EXPECT_EQ(progress.chosen(), 0);
  EXPECT_FALSE(progress.has_begun());
  EXPECT_FALSE(progress.is_resumed());
  EXPECT_FALSE(progress.must_rewind());
  EXPECT_FALSE(progress.repeats(0)) << "there was no pass yet";
}

TEST(EpochProgress, BeginsAnotherEpochAtItsStart) {
  EpochProgress progress;
  progress.resume();
  progress.choose(5);
  EXPECT_EQ(progress.chosen(), 5);
  EXPECT_FALSE(progress.is_resumed());
  progress.begin(5);
  EXPECT_TRUE(progress.has_begun());
  progress.choose(6);
  EXPECT_FALSE(progress.has_begun()) << "no pass over epoch 6";
}

TEST(EpochProgress, GoesOnInTheMiddleThoughTheProgramChoosesTheSameEpoch) {
  EpochProgress progress;
  progress.choose(5);
  progress.resume();
  progress.choose(5);
  EXPECT_TRUE(progress.is_resumed());
  progress.begin(5);
  progress.choose(5);
  EXPECT_TRUE(progress.has_begun());
}

TEST(EpochProgress, HasNotBegunAPassSinceItWasResumed) {
  EpochProgress progress;
  progress.begin(0);
  ASSERT_TRUE(progress.has_begun());
  progress.resume();
  EXPECT_FALSE(progress.has_begun());
  EXPECT_TRUE(progress.is_resumed());
  progress.begin(0);
  EXPECT_TRUE(progress.has_begun());
  EXPECT_FALSE(progress.is_resumed()) << "the pass after this one begins at the start";
}

TEST(EpochProgress, RewindsTheSamplerBehindAPassThatBeganInTheMiddle) {
  EpochProgress progress;
  progress.resume();
  EXPECT_FALSE(progress.must_rewind()) << "the next pass begins where the sampler does";
  progress.begin(0);
  EXPECT_TRUE(progress.must_rewind());
  progress.resume();
  EXPECT_FALSE(progress.must_rewind()) << "that pass begins in the middle again";
  progress.choose(1);
  EXPECT_TRUE(progress.must_rewind()) << "the pass over epoch 1 does not";
  progress.begin(1);
  EXPECT_FALSE(progress.must_rewind()) << "it began at the start";
}

TEST(EpochProgress, ExpectsTheEpochsToGoOnAtTheSameDistance) {
  EpochProgress progress;
  EXPECT_EQ(progress.begin(3), 4) << "the first pass tells no distance";
  EXPECT_EQ(progress.begin(5), 7);
  EXPECT_EQ(progress.begin(5), 5) << "a program that never chooses an epoch";
  EXPECT_EQ(progress.begin(2), -1);
  EXPECT_EQ(progress.begin(3), 4);
}

TEST(EpochProgress, RepeatsAnEpochThatTheProgramHasNotChosenAgain) {
  EpochProgress progress;
  progress.begin(0);
  EXPECT_TRUE(progress.repeats(0));
  EXPECT_FALSE(progress.repeats(1));
  progress.choose(0);
  EXPECT_FALSE(progress.repeats(0)) << "the program wants it again";
  progress.begin(0);
  EXPECT_TRUE(progress.repeats(0)) << "a choice is for one pass";
  progress.choose(1);
  EXPECT_FALSE(progress.repeats(0));
}

TEST(EpochProgress, DoesNotRepeatWhatBeganInTheMiddle) {
  EpochProgress progress;
  progress.resume();
  progress.begin(0);
  EXPECT_FALSE(progress.repeats(0)) << "the next pass has other samples too";
  progress.begin(0);
  EXPECT_TRUE(progress.repeats(0));
}

}  // namespace
}  // namespace lockstep::data::detail
