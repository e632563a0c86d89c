// SPDX-License-Identifier: BSD-3-Clause
// The protocol of the shared-memory backend without torch: ThreadSanitizer sees every access.
#include "comm/shared_memory/counters.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "native/posix/datagram_socket.h"
#include "native/posix/shared_memory.h"

namespace lockstep {
namespace {

using std::chrono::milliseconds;

class World {
 public:
  explicit World(int size)
      : size_(size),
        memory_(native::SharedMemory::create(SharedMemoryCounters::bytes_needed(size))) {
    for (int rank = 0; rank < size; ++rank) {
      SharedMemoryCounters(memory_->data(), 0, size)
          .admit(rank, ::getpid(), native::PeerProcess::own_pid_namespace());
    }
  }
  [[nodiscard]] SharedMemoryCounters join(int rank) const {
    SharedMemoryCounters counters(memory_->data(), rank, size_);
    counters.watch_peers();
    return counters;
  }

 private:
  int size_;
  std::shared_ptr<native::SharedMemory> memory_;
};

void await_arrived(const SharedMemoryCounters& counters, std::uint64_t round) {
  while (!counters.have_all_arrived(round)) counters.sleep_until_arrived(round, milliseconds(50));
}

void await_finished(const SharedMemoryCounters& counters, std::uint64_t round) {
  while (!counters.have_all_finished(round)) counters.sleep_until_finished(round, milliseconds(50));
}

class Rounds : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, Rounds, ::testing::Values(1, 2, 3, 4));

// Plain integers, no atomics: were the protocol not to order them, ThreadSanitizer would say so.
TEST_P(Rounds, OrderTheDataOfAllRanks) {
  const int size = GetParam();
  const World world(size);
  std::vector<std::vector<int>> values(static_cast<std::size_t>(size), std::vector<int>(64));
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      SharedMemoryCounters counters = world.join(rank);
      for (int step = 0; step < 500; ++step) {
        for (int& value : values[static_cast<std::size_t>(rank)]) value = step + rank;
        const std::uint64_t round = counters.arrive({}, 1);
        await_arrived(counters, round);
        // As an all-reduce in place: every rank sums its share of all blocks into all blocks.
        for (std::size_t i = static_cast<std::size_t>(rank); i < 64;
             i += static_cast<std::size_t>(size)) {
          int sum = 0;
          for (const auto& block : values) sum += block[i];
          for (auto& block : values) block[i] = sum;
        }
        counters.finish(round);
        await_finished(counters, round);
        counters.complete();
        const int expected = size * step + size * (size - 1) / 2;
        for (const int value : values[static_cast<std::size_t>(rank)]) ASSERT_EQ(value, expected);
      }
    });
  }
}

TEST_P(Rounds, LetARankArriveAheadAndKeepItsFingerprints) {
  const int size = GetParam();
  const World world(size);
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      SharedMemoryCounters counters = world.join(rank);
      std::uint64_t next = 0;
      for (std::uint64_t done = 0; done < 2000; ++done) {
        while (counters.can_arrive()) {
          Fingerprint print;
          print.elements = next * 10;
          print.root = rank;
          EXPECT_EQ(counters.arrive(print, next), next);
          ++next;
        }
        await_arrived(counters, done);
        for (int peer = 0; peer < size; ++peer) {
          const Fingerprint print = counters.fingerprint(peer, done);
          ASSERT_EQ(print.elements, done * 10);
          ASSERT_EQ(print.root, peer);
        }
        // Never seen as the digest of another round, however far ahead others are.
        ASSERT_FALSE(counters.have_same_digest(done, done + 28));
        EXPECT_EQ(next - done, SharedMemoryCounters::kMaxAhead);
        counters.finish(done);
        counters.complete();
      }
    });
  }
}

TEST(RoundsDigests, AreSeenWhileTheyAreFreshAndDifferWhereOneDoes) {
  const World world(2);
  SharedMemoryCounters first = world.join(0);
  SharedMemoryCounters second = world.join(1);
  for (std::uint64_t round = 0; round < 20; ++round) {
    EXPECT_EQ(first.arrive({}, round), round);
    EXPECT_EQ(second.arrive({}, round == 9 ? 1000 : round), round);
    EXPECT_EQ(first.have_same_digest(round, round), round != 9);
  }
  EXPECT_TRUE(first.have_same_digest(14, 14));
  EXPECT_FALSE(first.have_same_digest(13, 13)) << "about to be written over";
}

TEST(RoundsFailure, ARankThatLeavesCannotComeAndSaysWhy) {
  const World world(2);
  SharedMemoryCounters first = world.join(0);
  SharedMemoryCounters second = world.join(1);
  EXPECT_TRUE(first.can_still_come(1));
  const std::uint64_t round = first.arrive({}, 1);
  EXPECT_FALSE(first.have_all_arrived(round));
  EXPECT_FALSE(first.has_arrived(1, round));
  second.leave(SharedMemoryCounters::RankState::Aborted, std::string(2000, 'x'));
  EXPECT_FALSE(first.can_still_come(1));
  EXPECT_EQ(first.reason_of(1), std::string(1023, 'x'));        // cut, not overrun
  first.sleep_until_arrived(round, std::chrono::seconds(100));  // does not sleep: nobody will come
}

TEST(RoundsFailure, ARankOfSeveralHostsIsNamedWithItsHostAndForWhomItWaits) {
  const World world(2);
  SharedMemoryCounters first = world.join(0);
  SharedMemoryCounters second = world.join(1);
  first.name_ranks({4, 5}, "node2");
  EXPECT_EQ(first.describe(1).rfind("rank 5 (pid " + std::to_string(::getpid()) + " on node2, ", 0),
            0U)
      << first.describe(1);
  EXPECT_EQ(first.awaited_by(1), std::nullopt);
  second.note_awaited(0);
  EXPECT_EQ(first.awaited_by(1), 0);
  second.note_awaited(std::nullopt);
  EXPECT_EQ(first.awaited_by(1), std::nullopt);
}

TEST(SharedMemory, IsZeroedPrivateAndTellsWhatItLacks) {
  const auto memory = native::SharedMemory::create(10000);
  EXPECT_EQ(memory->size(), 10000U);
  for (std::size_t i = 0; i < memory->size(); ++i) ASSERT_EQ(memory->data()[i], std::byte{0});
  EXPECT_THROW(static_cast<void>(native::SharedMemory::map(
                   native::FileDescriptor(::dup(memory->descriptor())), 4096)),
               std::system_error);
  try {
    static_cast<void>(native::SharedMemory::create(std::size_t{1} << 46));
    FAIL() << "no error";
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code().value(), ENOSPC);
    EXPECT_NE(std::string(error.what()).find("70368744177664 bytes wanted, "), std::string::npos)
        << error.what();
  }
}

TEST(DatagramSocket, CarriesBytesAndDescriptors) {
  const std::string name = "lockstep test " + std::to_string(::getpid());
  native::DatagramSocket one(name + " 1");
  native::DatagramSocket two(name + " 2");
  EXPECT_THROW(native::DatagramSocket(name + " 1"), std::system_error);
  const std::array<std::byte, 3> bytes{std::byte{1}, std::byte{2}, std::byte{3}};
  EXPECT_FALSE(one.try_send(name + " 3", bytes));
  EXPECT_FALSE(two.receive(milliseconds(1)).has_value());
  const auto memory = native::SharedMemory::create(100);
  ASSERT_TRUE(one.try_send(name + " 2", bytes, memory->descriptor()));
  auto message = two.receive(std::chrono::minutes(1));
  ASSERT_TRUE(message.has_value());
  EXPECT_EQ(message->bytes, std::vector<std::byte>(bytes.begin(), bytes.end()));
  memory->data()[7] = std::byte{42};
  EXPECT_EQ(native::SharedMemory::map(std::move(message->descriptor), 100)->data()[7],
            std::byte{42});
}

TEST(PeerProcess, SeesDeathAndStopping) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::pause();
    ::_exit(0);
  }
  const native::PeerProcess peer(child, native::PeerProcess::own_pid_namespace());
  EXPECT_TRUE(peer.is_alive());
  ::kill(child, SIGSTOP);
  int status = 0;
  ::waitpid(child, &status, WUNTRACED);
  EXPECT_EQ(peer.state(), "stopped");
  ::kill(child, SIGKILL);
  ::waitpid(child, &status, 0);
  EXPECT_FALSE(peer.is_alive());
  EXPECT_EQ(peer.state(), "dead");
  EXPECT_TRUE(native::PeerProcess(child, 0).is_alive()) << "another namespace: not for us to say";
}

}  // namespace
}  // namespace lockstep
