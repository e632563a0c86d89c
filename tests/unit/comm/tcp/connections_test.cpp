// SPDX-License-Identifier: BSD-3-Clause
// The engine, and what it moves, without torch: ThreadSanitizer runs this. Ranks are threads.
#include "comm/tcp/connections.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstring>
#include <functional>
#include <latch>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "comm/tcp/chain_reduction.h"
#include "comm/tcp/mesh.h"
#include "support/some_limit.h"

namespace {

constexpr in_addr_t kSilentAddress = INADDR_LOOPBACK + 0x100;  // 127.0.1.1: another network
std::atomic<int> attempts_at_silent_address{0};
thread_local int waits_for_events = 0;  // of this thread

}  // namespace

/// In place of the C library's, to count.
extern "C" int connect(int socket, const sockaddr* name, socklen_t length) {
  sockaddr_in address{};
  if (length >= sizeof(address)) std::memcpy(&address, name, sizeof(address));
  if (address.sin_addr.s_addr == htonl(kSilentAddress)) ++attempts_at_silent_address;
  return static_cast<int>(::syscall(SYS_connect, socket, name, length));
}
/// The same.
extern "C" int epoll_wait(int epoll, epoll_event* events, int most, int limit_ms) {
  ++waits_for_events;
  return ::epoll_pwait(epoll, events, most, limit_ms, nullptr);
}

namespace lockstep {
namespace {

using std::chrono::milliseconds;

constexpr std::chrono::seconds kLimit{60};

ReduceKernel float_sum() {
  const auto add = [](const void* before, ReduceKernel::Inputs inputs, void* output,
                      std::size_t elements) {
    for (std::size_t i = 0; i < elements; ++i) {
      float sum = before == nullptr ? 0 : static_cast<const float*>(before)[i];
      for (const void* input : inputs) sum += static_cast<const float*>(input)[i];
      static_cast<float*>(output)[i] = sum;
    }
  };
  return {.element_bytes = sizeof(float),
          .accumulator_bytes = sizeof(float),
          .all = [add](ReduceKernel::Inputs inputs, void* output,
                       std::size_t elements) { add(nullptr, inputs, output, elements); },
          .some = add,
          .last = add};
}

class Rank {
 public:
  Rank(TcpConnections& connections, std::function<void()> meet)
      : connections_(connections), meet_(std::move(meet)) {}

  TcpConnections& connections() { return connections_; }
  void meet() const { meet_(); }
  [[nodiscard]] int number() const { return connections_.rank(); }
  [[nodiscard]] int ranks() const { return connections_.world_size(); }

  std::shared_ptr<TcpTask> start(std::vector<std::span<float>> blocks,
                                 std::optional<int> root = {}) {
    auto held = connections_.engine().lock();
    OwnerReductionCall call;
    call.root = root;
    call.kernel = float_sum();
    Fingerprint fingerprint;
    for (const auto block : blocks) {
      call.blocks.push_back(std::as_writable_bytes(block));
      fingerprint.elements += block.size();
    }
    call.number = connections_.announce(fingerprint, {});
    auto task = connections_.reductions().start(std::move(call));
    connections_.engine().hand_over(held);
    return task;
  }

  [[nodiscard]] bool wait_until(const std::function<bool()>& is_done) {
    const Deadline deadline = Deadline::after(kLimit);
    while (!is_done()) {
      if (deadline.has_passed()) return false;
      connections_.engine().wait(milliseconds(20));
    }
    return true;
  }
  /// Why a rank will never come; empty: nothing is known.
  [[nodiscard]] std::string loss() {
    const auto held = connections_.engine().lock();
    const auto& found = connections_.find_loss();
    return found ? found->text : "";
  }
  [[nodiscard]] bool wait_for_loss() {
    return wait_until([&] { return !loss().empty(); });
  }
  void wait(const TcpTask& task) {
    EXPECT_TRUE(wait_until([&] { return task.is_done(); })) << "rank " << number();
  }

 private:
  TcpConnections& connections_;
  std::function<void()> meet_;
};

void run_ranks(int ranks, const std::function<void(Rank&)>& body, bool has_thread = true) {
  std::vector<std::unique_ptr<TcpMesh>> meshes;
  std::vector<TcpContact> contacts;
  std::vector<std::string> names;
  for (int rank = 0; rank < ranks; ++rank) {
    meshes.push_back(std::make_unique<TcpMesh>("lo"));
    contacts.push_back(meshes.back()->contact());
    names.push_back("rank " + std::to_string(rank));
  }
  std::barrier meeting(ranks);
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      TcpConnections connections(
          rank,
          meshes[static_cast<std::size_t>(rank)]->connect(contacts, rank, Deadline::after(kLimit)),
          names, has_thread);
      Rank self(connections, [&] { meeting.arrive_and_wait(); });
      body(self);
      meeting.arrive_and_wait();
    });
  }
}

/// Ends a connection as a host does that knows nothing of it.
void reset(int socket) {
  sockaddr nowhere{};
  nowhere.sa_family = AF_UNSPEC;
  EXPECT_EQ(::connect(socket, &nowhere, sizeof(nowhere)), 0);
}

/// What rank `rank` has at `index`: small whole numbers, whose sums are exact.
float value_of(int rank, std::size_t index) {
  return static_cast<float>((index % 1000) * static_cast<std::size_t>(rank + 1));
}

std::vector<float> values_of(int rank, std::size_t elements) {
  std::vector<float> values(elements);
  for (std::size_t i = 0; i < elements; ++i) values[i] = value_of(rank, i);
  return values;
}

std::vector<float> sums_of(int ranks, std::size_t elements) {
  std::vector<float> sums(elements);
  for (int rank = 0; rank < ranks; ++rank) {
    for (std::size_t i = 0; i < elements; ++i) sums[i] += value_of(rank, i);
  }
  return sums;
}

class TcpConnectionsOf : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, TcpConnectionsOf, ::testing::Values(2, 3, 4));

TEST_P(TcpConnectionsOf, ReduceSeveralTensorsWhileTheProgramComputes) {
  run_ranks(GetParam(), [](Rank& rank) {
    const std::vector<std::size_t> sizes{1, 5'000, 3'000'000, 70'001};
    std::vector<std::vector<float>> tensors;
    std::vector<std::shared_ptr<TcpTask>> tasks;
    for (const std::size_t size : sizes) tensors.push_back(values_of(rank.number(), size));
    for (auto& tensor : tensors) tasks.push_back(rank.start({tensor}));
    // No call into the engine: its thread alone moves the bytes.
    const Deadline deadline = Deadline::after(kLimit);
    for (const auto& task : tasks) {
      while (!task->is_done() && !deadline.has_passed())
        std::this_thread::sleep_for(milliseconds(1));
      EXPECT_TRUE(task->is_done());
    }
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      EXPECT_EQ(tensors[i], sums_of(rank.ranks(), sizes[i])) << "tensor " << i;
    }
  });
}

TEST_P(TcpConnectionsOf, ReduceWithoutAThreadInTheCallsOfTheProgram) {
  run_ranks(
      GetParam(),
      [](Rank& rank) {
        auto tensor = values_of(rank.number(), 1'000'000);
        rank.wait(*rank.start({tensor}));
        EXPECT_EQ(tensor, sums_of(rank.ranks(), tensor.size()));
      },
      false);
}

TEST_P(TcpConnectionsOf, ReduceBlocksThatEachRankCutsInItsOwnWay) {
  run_ranks(GetParam(), [](Rank& rank) {
    auto tensor = values_of(rank.number(), 600'000);
    const auto cut = static_cast<std::size_t>(100'000 + 12'345 * rank.number());
    const std::span<float> all(tensor);
    rank.wait(*rank.start({all.first(cut), all.subspan(cut, 7), all.subspan(cut + 7)}));
    EXPECT_EQ(tensor, sums_of(rank.ranks(), tensor.size()));
  });
}

TEST_P(TcpConnectionsOf, ReduceForOneRankLeavesTheOthersAsTheyAre) {
  run_ranks(GetParam(), [](Rank& rank) {
    auto tensor = values_of(rank.number(), 800'000);
    rank.wait(*rank.start({tensor}, 1));
    EXPECT_EQ(tensor, rank.number() == 1 ? sums_of(rank.ranks(), tensor.size())
                                         : values_of(rank.number(), tensor.size()));
  });
}

TEST_P(TcpConnectionsOf, DoNotReadTheValuesOfARankThatHasAnnouncedSomethingElse) {
  run_ranks(GetParam(), [](Rank& rank) {
    auto tensor = values_of(rank.number(), rank.number() == 1 ? 500'000 : 500'001);
    const auto before = tensor;
    const auto task = rank.start({tensor});
    static_cast<void>(rank.wait_until([&] {
      const auto held = rank.connections().engine().lock();
      return rank.connections().announcements().is_complete(0);
    }));
    rank.connections().engine().wait(milliseconds(50));
    EXPECT_FALSE(task->is_done());
    rank.connections().announce_abort("another call");
    EXPECT_EQ(tensor, before);
    rank.meet();
  });
}

TEST_P(TcpConnectionsOf, ReduceAlongAChainWithTheResultComingBack) {
  run_ranks(GetParam(), [](Rank& rank) {
    // Two ranks on each host, of which one stands in the chain.
    const auto first = values_of(rank.number(), 700'003);
    const auto second = values_of(rank.number() + 10, first.size());
    std::vector<float> result(first.size());
    using Neighbour = TcpChainReduction::Neighbour;
    const auto neighbour = [&](int other, TcpChannel channel) -> std::optional<Neighbour> {
      if (other < 0 || other >= rank.ranks()) return std::nullopt;
      return Neighbour{other, &rank.connections().stream(other, channel)};
    };
    const auto before = neighbour(rank.number() - 1, TcpChannel::Contributions);
    const auto after = neighbour(rank.number() + 1, TcpChannel::Contributions);
    const auto chain = std::make_shared<TcpChainReduction>(
        TcpChainReduction::Place{.previous = before,
                                 .next = after,
                                 .result_from = neighbour(rank.number() + 1, TcpChannel::Results),
                                 .result_to = neighbour(rank.number() - 1, TcpChannel::Results)},
        float_sum(),
        std::vector{reinterpret_cast<const std::byte*>(first.data()),
                    reinterpret_cast<const std::byte*>(second.data())},
        std::as_writable_bytes(std::span(result)));
    {
      auto held = rank.connections().engine().lock();
      rank.connections().start(chain);
      rank.connections().engine().hand_over(held);
    }
    rank.wait(*chain);
    std::vector<float> expected(first.size());
    for (int other = 0; other < rank.ranks(); ++other) {
      for (std::size_t i = 0; i < expected.size(); ++i) {
        expected[i] += value_of(other, i) + value_of(other + 10, i);
      }
    }
    EXPECT_EQ(result, expected);
  });
}

TEST_P(TcpConnectionsOf, NameARankWhoseProcessHasGone) {
  run_ranks(GetParam(), [](Rank& rank) {
    if (rank.number() == 1) {
      auto held = rank.connections().engine().lock();
      for (int other = 0; other < rank.ranks(); ++other) {
        if (other == 1) continue;
        // As the kernel does at the end of a process.
        ::shutdown(rank.connections().stream(other, TcpChannel::Control).socket(), SHUT_RDWR);
      }
    } else {
      EXPECT_TRUE(rank.wait_until([&] {
        const auto held = rank.connections().engine().lock();
        return rank.connections().find_loss().has_value();
      }));
      const auto held = rank.connections().engine().lock();
      EXPECT_EQ(rank.connections().find_loss()->text.rfind("rank 1 is gone", 0), 0U);
    }
    rank.meet();
  });
}

TEST_P(TcpConnectionsOf, PassOnWhyARankHasAborted) {
  run_ranks(GetParam(), [](Rank& rank) {
    if (rank.number() == 0) {
      rank.connections().announce_abort("bad luck");
      rank.connections().announce_abort("another reason");
    } else {
      EXPECT_TRUE(rank.wait_until([&] {
        const auto held = rank.connections().engine().lock();
        return rank.connections().find_loss().has_value();
      }));
      const auto held = rank.connections().engine().lock();
      EXPECT_EQ(rank.connections().find_loss()->text, "rank 0 gave up: bad luck");
    }
    rank.meet();
  });
}

TEST_P(TcpConnectionsOf, PassOnWhyARankHasAbortedAlsoAfterItsConnectionsHaveEnded) {
  run_ranks(GetParam(), [](Rank& rank) {
    if (rank.number() == 0) {
      for (int other = 1; other < rank.ranks(); ++other) {
        reset(rank.connections().stream(other, TcpChannel::Messages).socket());
      }
      rank.meet();
      rank.connections().announce_abort("bad luck");
      rank.meet();
    } else {
      EXPECT_TRUE(rank.wait_for_loss());
      rank.meet();
      rank.meet();
      EXPECT_TRUE(rank.wait_until([&] { return rank.loss() == "rank 0 gave up: bad luck"; }))
          << rank.loss();
    }
    rank.meet();
  });
}

TEST_P(TcpConnectionsOf, NoticeAnErrorOfAConnectionThatCarriesNothing) {
  run_ranks(GetParam(), [](Rank& rank) {
    if (rank.number() == 0) {
      for (int other = 1; other < rank.ranks(); ++other) {
        reset(rank.connections().stream(other, TcpChannel::Messages).socket());
      }
    } else {
      EXPECT_TRUE(rank.wait_for_loss());
      EXPECT_EQ(rank.loss(), "rank 0 is gone (Connection reset by peer)");
    }
    rank.meet();
  });
}

TEST_P(TcpConnectionsOf, TouchNoMemoryAfterAnAbort) {
  run_ranks(GetParam(), [](Rank& rank) {
    std::vector<std::byte> bytes(8, std::byte{1});
    const auto message = std::make_shared<TcpMessage>();
    message->bytes = bytes;
    if (rank.number() == 0) {
      {
        const auto held = rank.connections().engine().lock();
        rank.connections().mailbox().receive(1, 7, message);
      }
      rank.connections().announce_abort("too late");
      rank.meet();
      rank.meet();
      // The frame of the message is the last that comes before the goodbye.
      EXPECT_TRUE(rank.wait_until([&] {
        const auto held = rank.connections().engine().lock();
        return rank.connections().has_left(1);
      }));
      EXPECT_EQ(bytes, std::vector(8, std::byte{1}));
      EXPECT_EQ(rank.loss(), "");
    } else {
      rank.meet();
      if (rank.number() == 1) {
        bytes.assign(8, std::byte{2});
        const auto held = rank.connections().engine().lock();
        rank.connections().mailbox().send(0, 7, message);
      }
      rank.meet();
      rank.connections().close(milliseconds(100));
    }
    rank.meet();
  });
}

TEST(TcpEngine, DoesNotWaitForWhatItsThreadHasMovedBefore) {
  run_ranks(2, [](Rank& rank) {
    for (int attempt = 0; attempt < 5; ++attempt) {
      auto tensor = values_of(rank.number(), 100'000);
      const auto task = rank.start({tensor});
      while (!task->is_done()) std::this_thread::sleep_for(milliseconds(1));
      rank.meet();
      const int before = waits_for_events;
      rank.connections().engine().wait(milliseconds(100));
      EXPECT_EQ(waits_for_events, before);
      // It waits once it has seen what was moved.
      EXPECT_TRUE(rank.wait_until([&] { return waits_for_events > before; }));
      rank.meet();
    }
  });
}

TEST(TcpClose, DoesNotWaitForARankThatTakesNothingMore) {
  run_ranks(2, [](Rank& rank) {
    if (rank.number() == 0) {
      reset(rank.connections().stream(1, TcpChannel::Control).socket());
      rank.meet();
    } else {
      rank.meet();
      const auto start = std::chrono::steady_clock::now();
      rank.connections().close(kLimit);
      EXPECT_LT(std::chrono::steady_clock::now() - start, kLimit / 2);
    }
  });
}

TEST_P(TcpConnectionsOf, CloseInOrderWithoutALoss) {
  run_ranks(GetParam(), [](Rank& rank) {
    rank.connections().close(milliseconds(60'000));
    const auto held = rank.connections().engine().lock();
    EXPECT_FALSE(rank.connections().find_loss().has_value());
  });
}

TEST(TcpMesh, RefusesWhoDoesNotKnowTheSecret) {
  TcpMesh first("lo");
  TcpMesh second("lo");
  std::vector<TcpContact> contacts{first.contact(), second.contact()};
  std::latch has_spoken(1);  // before the other rank: nobody listens to whoever comes last
  std::jthread stranger([&] {
    std::string reason;
    auto contact = first.contact();
    const auto socket = native::connect_tcp(contact.addresses[0], Deadline::after(kLimit), reason);
    const std::string text(64, 'x');
    static_cast<void>(
        native::write_all(socket.get(), text.data(), text.size(), Deadline::after(kLimit)));
    has_spoken.count_down();
    char answer = 0;
    EXPECT_FALSE(native::read_all(socket.get(), &answer, 1, Deadline::after(kLimit)));
  });
  has_spoken.wait();
  std::jthread other(
      [&] { EXPECT_TRUE(second.connect(contacts, 1, Deadline::after(kLimit))[0][0].is_open()); });
  const auto sockets = first.connect(contacts, 0, Deadline::after(kLimit));
  for (const auto& socket : sockets[1]) EXPECT_TRUE(socket.is_open());
}

/// What a rank says first when it connects to another one.
using Greeting = std::array<std::byte, 40>;

Greeting greeting_of(TcpMesh& mesh, std::vector<TcpContact> contacts) {
  native::TcpListener listener;
  contacts[0].count = 1;
  contacts[0].addresses[0].port = listener.port();
  std::jthread other([&] {
    EXPECT_THROW(static_cast<void>(mesh.connect(contacts, 1, Deadline::after(milliseconds(200)))),
                 std::runtime_error);
  });
  Greeting greeting{};
  const auto socket = listener.accept(Deadline::after(kLimit));
  EXPECT_TRUE(
      native::read_all(socket.get(), greeting.data(), greeting.size(), Deadline::after(kLimit)));
  return greeting;
}

TEST(TcpMesh, DoesNotTakeAConnectionThatTheOtherRankHasGivenUp) {
  TcpMesh first("lo");
  TcpMesh second("lo");
  const std::vector<TcpContact> contacts{first.contact(), second.contact()};
  Greeting greeting = greeting_of(second, contacts);
  for (std::uint32_t channel = 0; channel < kTcpChannels; ++channel) {
    constexpr std::size_t kChannelAt = 32;
    std::memcpy(greeting.data() + kChannelAt, &channel, sizeof(channel));
    std::string reason;
    const auto socket =
        native::connect_tcp(contacts[0].addresses[0], Deadline::after(kLimit), reason);
    EXPECT_TRUE(
        native::write_all(socket.get(), greeting.data(), greeting.size(), Deadline::after(kLimit)));
  }
  std::jthread other([&] {
    EXPECT_NO_THROW(
        static_cast<void>(second.connect(contacts, 1, Deadline::after(std::chrono::seconds(10)))));
  });
  EXPECT_NO_THROW(static_cast<void>(first.connect(contacts, 0, Deadline::after(kLimit))));
}

/// An address that drops packets, as a firewall does: its queue of connections is full.
class SilentAddress {
 public:
  SilentAddress() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(kSilentAddress);
    socklen_t length = sizeof(name);
    auto* any = reinterpret_cast<sockaddr*>(&name);
    EXPECT_EQ(::bind(socket_.get(), any, length), 0);
    EXPECT_EQ(::listen(socket_.get(), 0), 0);
    EXPECT_EQ(::getsockname(socket_.get(), any, &length), 0);
    address_.family = AF_INET;
    address_.port = ntohs(name.sin_port);
    std::memcpy(address_.bytes.data(), &name.sin_addr, sizeof(name.sin_addr));
    std::string reason;
    do {
      queue_.push_back(native::connect_tcp(address_, Deadline::after(milliseconds(100)), reason));
    } while (queue_.back().is_open());
  }
  [[nodiscard]] const native::TcpAddress& address() const { return address_; }

 private:
  native::FileDescriptor socket_;
  native::TcpAddress address_;
  std::vector<native::FileDescriptor> queue_;
};

// An address that answers nothing must not cost its time once for each rank.
TEST(TcpMesh, LosesLittleTimeWithANetworkThatDropsPackets) {
  constexpr int kRanks = 8;
  const SilentAddress silent;
  std::vector<std::unique_ptr<TcpMesh>> meshes;
  std::vector<TcpContact> contacts;
  for (int rank = 0; rank < kRanks; ++rank) {
    meshes.push_back(std::make_unique<TcpMesh>("lo"));
    contacts.push_back(meshes.back()->contact());
    auto& contact = contacts.back();
    contact.addresses[1] = contact.addresses[0];
    contact.addresses[0] = silent.address();
    contact.count = 2;
  }
  const Deadline deadline = Deadline::after(std::chrono::seconds(60));
  const int before = attempts_at_silent_address;
  std::vector<std::jthread> ranks;
  for (int rank = 0; rank < kRanks; ++rank) {
    ranks.emplace_back([&, rank] {
      EXPECT_NO_THROW(static_cast<void>(
          meshes[static_cast<std::size_t>(rank)]->connect(contacts, rank, deadline)));
    });
  }
  ranks.clear();
  // Once a rank, or some times more on a busy machine; without a memory, once for each pair.
  EXPECT_GE(attempts_at_silent_address - before, kRanks - 1);
  EXPECT_LT(attempts_at_silent_address - before, kRanks * (kRanks - 1) / 2);
}

TEST(TcpMesh, DoesNotAskARankThatRefusesWithoutAPause) {
  // A busy machine may let the time pass before the first attempt.
  testing::expect_with_some_limit([](milliseconds limit) -> std::string {
    TcpMesh own("lo");
    native::TcpListener listener;
    std::vector<TcpContact> contacts(2, own.contact());
    contacts[0].count = 1;
    contacts[0].addresses[0].port = listener.port();
    int attempts = 0;
    std::atomic<bool> has_given_up{false};
    std::jthread other([&] {
      while (true) {
        const bool is_last = has_given_up;
        while (listener.accept(Deadline::after(milliseconds(50))).is_open()) ++attempts;
        if (is_last) return;
      }
    });
    EXPECT_THROW(static_cast<void>(own.connect(contacts, 1, Deadline::after(limit))),
                 std::runtime_error);
    has_given_up = true;
    other.join();
    const auto most = limit / milliseconds(40);
    if (attempts >= 1 && attempts <= most) return "";
    return std::to_string(attempts) + " attempts";
  });
}

TEST(TcpMesh, SaysThatNoInterfaceHasTheName) {
  try {
    const TcpMesh mesh("nosuch,neither");
    FAIL() << "it offers " << mesh.description();
  } catch (const std::runtime_error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("'nosuch,neither'"), std::string::npos) << text;
    EXPECT_NE(text.find("lo"), std::string::npos) << text;
  }
}

/// A stream, and the other end of its connection.
class TcpStreamAndPeer : public ::testing::Test {
 protected:
  TcpStreamAndPeer() {
    std::array<int, 2> ends{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends.data()), 0);
    peer_ = native::FileDescriptor(ends[1]);
    stream_ = std::make_unique<TcpStream>(native::FileDescriptor(ends[0]), 1, ready_);
  }
  void advance() {
    while (stream_->advance()) {
    }
  }
  void write(std::size_t bytes) {
    const std::vector<std::byte> data(bytes);
    EXPECT_TRUE(native::write_all(peer_.get(), data.data(), bytes, Deadline::after(kLimit)));
  }

  ReadyStreams ready_;
  native::FileDescriptor peer_;
  std::unique_ptr<TcpStream> stream_;
};

TEST_F(TcpStreamAndPeer, ReadTheEndThatCameWithTheLastBytes) {
  std::vector<std::byte> wanted(100);
  stream_->receive(wanted);
  write(50);
  peer_ = {};
  // The kernel says both at once, and no more later.
  stream_->note_events(true, true, true);
  advance();
  EXPECT_EQ(stream_->end_text(), "the connection was closed");
}

TEST_F(TcpStreamAndPeer, ReadWhatCameBeforeTheConnectionBroke) {
  std::vector<std::byte> first(50), second(50);
  bool has_come = false;
  stream_->receive(first, [&] { stream_->receive(second, [&] { has_come = true; }); });
  write(100);
  peer_ = {};
  const std::vector<std::byte> sent(10);
  stream_->send(sent, {});
  advance();
  EXPECT_TRUE(has_come);
  EXPECT_EQ(stream_->end_text(), "Broken pipe");
}

/// A child that lives from now until this object is destroyed.
class LivingChild {
 public:
  LivingChild() {
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends_.data()), 0);
    child_ = ::fork();
    char byte = 0;
    if (child_ != 0) {
      EXPECT_TRUE(::read(ends_[0], &byte, 1) == 1) << "the child does not live";
      return;
    }
    ::close(ends_[0]);
    const bool is_over = ::write(ends_[1], &byte, 1) != 1 || ::read(ends_[1], &byte, 1) == 0;
    ::_exit(is_over ? 0 : 1);
  }
  ~LivingChild() {
    for (const int end : ends_) ::close(end);
    ::waitpid(child_, nullptr, 0);
  }

 private:
  std::array<int, 2> ends_{};
  pid_t child_ = 0;
};

TEST_F(TcpStreamAndPeer, EndThoughAChildOfTheProgramLives) {
  const LivingChild child;
  stream_.reset();
  char nothing = 0;
  EXPECT_EQ(::recv(peer_.get(), &nothing, 1, MSG_DONTWAIT), 0);
}

TEST_F(TcpStreamAndPeer, StayAsTheyAreInTheProgramThatForks) {
  const std::vector<std::byte> sent(10);
  const LivingChild child;
  stream_->send(sent, {});
  advance();
  std::array<char, 10> bytes{};
  EXPECT_EQ(::recv(peer_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT), 10);
}

// Whatever the child opens has another number, and the copies of streams close their own.
TEST_F(TcpStreamAndPeer, TakeNothingFromAChildWithTheirNumbers) {
  const pid_t child = ::fork();
  if (child == 0) {
    const int number = stream_->socket();
    const native::FileDescriptor own(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
    const bool is_other = own.get() != number;
    stream_.reset();
    char byte = 1;
    const bool is_open = ::read(own.get(), &byte, 1) == 1;
    ::_exit(is_other && is_open ? 0 : 1);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(TcpStreamAndPeer, SendAMessageWhoseBytesAreAskedForWhileItsHeadIsSent) {
  TcpMailbox* mailbox = nullptr;
  TcpMailbox made(
      0, {nullptr, stream_.get()},
      {.send_head = [&](int to, const TcpMailbox::Head& head,
                        std::span<const std::byte>) { mailbox->take_question(to, head.id); },
       .ask = [](int, std::uint64_t) {}});
  mailbox = &made;
  const std::vector<std::byte> bytes(std::size_t{20} << 10);
  const auto message = std::make_shared<TcpMessage>();
  message->bytes = {const_cast<std::byte*>(bytes.data()), bytes.size()};
  made.send(1, 0, message);
  EXPECT_TRUE(stream_->has_unsent());
}

TEST(TcpMesh, NamesARankThatDoesNotCome) {
  TcpMesh first("lo");
  const TcpMesh second("lo");
  const std::vector<TcpContact> contacts{first.contact(), second.contact()};
  try {
    static_cast<void>(first.connect(contacts, 0, Deadline::after(milliseconds(100))));
    FAIL() << "nobody connected";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("rank 1 on "), std::string::npos) << error.what();
  }
}

TEST(TcpMesh, NamesAnAddressThatCannotBeReached) {
  TcpMesh own("lo");
  std::vector<TcpContact> contacts(2, own.contact());
  contacts[0].count = 1;
  contacts[0].addresses[0].port = 1;  // nobody listens there
  try {
    static_cast<void>(own.connect(contacts, 1, Deadline::after(milliseconds(100))));
    FAIL() << "nobody listens";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("Connection refused"), std::string::npos)
        << error.what();
  }
}

// Two ranks send the same bytes in one trip as in two; more ranks send more in one.
TEST(TcpSizes, FollowTheLatencyAndTheRate) {
  const auto expect = [](const TcpSizes& sizes, double small_bytes, double piece_bytes) {
    EXPECT_NEAR(static_cast<double>(sizes.small_bytes), small_bytes, 1);
    EXPECT_NEAR(static_cast<double>(sizes.piece_bytes), piece_bytes, 1);
  };
  constexpr double kKiB = 1024;
  expect(TcpSizes::for_link(20e-6, 1e9, 2), 256 * kKiB, 480'000);
  expect(TcpSizes::for_link(30e-6, 1e9, 4), 20'000, 360'000);
  EXPECT_EQ(TcpSizes::for_link(20e-6, 1e9, 1).small_bytes, SIZE_MAX)
      << "a rank alone sends nothing";
  // Within limits.
  expect(TcpSizes::for_link(20e-6, 1e6, 2), 256 * kKiB, 64 * kKiB);
  expect(TcpSizes::for_link(1, 1e9, 4), 256 * kKiB / 3, 512 * kKiB);
  // The memory for the pieces of all ranks stays the same, but a piece is not too short.
  expect(TcpSizes::for_link(20e-6, 1e9, 64), 20'000.0 / 63 / (1 - 2.0 / 64), 16 * kKiB);
}

}  // namespace
}  // namespace lockstep
