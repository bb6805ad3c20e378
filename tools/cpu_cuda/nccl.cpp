// NCCL between processes of one machine: the calls that ckd-kernels makes, over Unix sockets. A call is done when it returns, and
// waits for the other processes as long as it takes; a process that is gone is ncclRemoteError.
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <fcntl.h>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <deque>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))
enum { SUCCESS = 0, SYSTEM = 2, INVALID = 4, REMOTE = 6 };

struct Id { char text[128]; };
struct Comm { int rank, size; std::vector<int> sockets; };
struct Move { bool sends; char *at; size_t bytes; int peer; Comm *comm; };

static thread_local int depth = 0;
static thread_local std::vector<Move> waiting;

static size_t size_of(int type) {
    switch (type) {
        case 0: case 1: return 1;
        case 6: case 9: return 2;
        case 2: case 3: case 7: return 4;
        case 4: case 5: case 8: return 8;
        default: return 0;
    }
}

// Moves of one communicator, those to and from a peer in their order.
static int move_all(std::vector<Move> moves) {
    if (moves.empty()) return SUCCESS;
    Comm *comm = moves[0].comm;
    std::vector<std::deque<Move>> out(comm->size), in(comm->size);
    for (auto &move : moves) (move.sends ? out : in)[move.peer].push_back(move);
    auto &to_self = out[comm->rank], &from_self = in[comm->rank];
    while (!to_self.empty() && !from_self.empty()) {
        std::memmove(from_self.front().at, to_self.front().at, to_self.front().bytes);
        to_self.pop_front(), from_self.pop_front();
    }
    if (!to_self.empty() || !from_self.empty()) return INVALID;
    for (;;) {
        std::vector<pollfd> open;
        std::vector<int> peers;
        for (int peer = 0; peer < comm->size; peer++) {
            short events = (out[peer].empty() ? 0 : POLLOUT) | (in[peer].empty() ? 0 : POLLIN);
            if (events) open.push_back({comm->sockets[peer], events, 0}), peers.push_back(peer);
        }
        if (open.empty()) return SUCCESS;
        if (poll(open.data(), open.size(), -1) < 0 && errno != EINTR) return SYSTEM;
        for (size_t i = 0; i < open.size(); i++) {
            for (auto *queue : {&out[peers[i]], &in[peers[i]]}) {
                if (queue->empty()) continue;
                Move &move = queue->front();
                if (!(open[i].revents & (move.sends ? POLLOUT : POLLIN))) continue;
                ssize_t n = move.sends ? send(open[i].fd, move.at, move.bytes, MSG_NOSIGNAL) : recv(open[i].fd, move.at, move.bytes, 0);
                if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
                if (n <= 0) return REMOTE;
                move.at += n, move.bytes -= n;
                if (move.bytes == 0) queue->pop_front();
            }
            if (open[i].revents & (POLLERR | POLLNVAL) || (open[i].revents & POLLHUP && !(open[i].revents & POLLIN))) return REMOTE;
        }
    }
}

static int add(Move move) {
    if (move.bytes) waiting.push_back(move);
    if (depth > 0) return SUCCESS;
    std::vector<Move> moves;
    moves.swap(waiting);
    return move_all(std::move(moves));
}

// An address in the abstract name space, which leaves no file.
static socklen_t address(sockaddr_un &at, const Id &id, int rank) {
    at = {};
    at.sun_family = AF_UNIX;
    int length = std::snprintf(at.sun_path + 1, sizeof at.sun_path - 1, "%.80s-%d", id.text, rank);
    return offsetof(sockaddr_un, sun_path) + 1 + length;
}

API int ncclGetVersion(int *version) { *version = 22800; return SUCCESS; }
API const char *ncclGetErrorString(int code) {
    return code == REMOTE ? "remote process exited or there was a network error" : code == INVALID ? "invalid argument" : "an error of the stand-in's NCCL";
}
API int ncclGetUniqueId(Id *id) {
    static int made = 0;
    std::memset(id, 0, sizeof *id);
    auto now = std::chrono::steady_clock::now().time_since_epoch().count();
    std::snprintf(id->text, sizeof id->text, "cpu_cuda_nccl-%d-%lld-%d", int(getpid()), (long long)now, made++);
    return SUCCESS;
}
API int ncclCommInitRank(Comm **comm, int size, Id id, int rank) {
    if (rank < 0 || rank >= size) return INVALID;
    Comm *made = new Comm{rank, size, std::vector<int>(size, -1)};
    sockaddr_un at;
    int door = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t length = address(at, id, rank);
    if (door < 0 || bind(door, (sockaddr *)&at, length) != 0 || listen(door, size) != 0) return SYSTEM;
    for (int peer = 0; peer < rank; peer++) {
        int own = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        length = address(at, id, peer);
        for (int tries = 0; connect(own, (sockaddr *)&at, length) != 0; tries++) {
            if (tries > 6000) return REMOTE;
            usleep(10000);
        }
        if (send(own, &rank, sizeof rank, MSG_NOSIGNAL) != sizeof rank) return REMOTE;
        made->sockets[peer] = own;
    }
    for (int peer = rank + 1; peer < size; peer++) {
        int other = -1, own = accept4(door, nullptr, nullptr, SOCK_CLOEXEC);
        if (own < 0 || recv(own, &other, sizeof other, MSG_WAITALL) != sizeof other || other <= rank || other >= size) return REMOTE;
        made->sockets[other] = own;
    }
    close(door);
    for (int own : made->sockets) if (own >= 0) fcntl(own, F_SETFL, O_NONBLOCK);
    *comm = made;
    return SUCCESS;
}
API int ncclCommDestroy(Comm *comm) {
    for (int own : comm->sockets) if (own >= 0) close(own);
    delete comm;
    return SUCCESS;
}
API int ncclCommGetAsyncError(Comm *, int *code) { *code = SUCCESS; return SUCCESS; }
API int ncclGroupStart() { depth++; return SUCCESS; }
API int ncclGroupEnd() {
    if (--depth > 0) return SUCCESS;
    std::vector<Move> moves;
    moves.swap(waiting);
    return move_all(std::move(moves));
}
API int ncclSend(const void *from, size_t count, int type, int peer, Comm *comm, void *) {
    return add({true, (char *)from, count * size_of(type), peer, comm});
}
API int ncclRecv(void *to, size_t count, int type, int peer, Comm *comm, void *) {
    return add({false, (char *)to, count * size_of(type), peer, comm});
}
API int ncclAllGather(const void *from, void *to, size_t count, int type, Comm *comm, void *) {
    size_t bytes = count * size_of(type);
    depth++;
    for (int peer = 0; peer < comm->size; peer++) {
        add({true, (char *)from, bytes, peer, comm});
        add({false, (char *)to + peer * bytes, bytes, peer, comm});
    }
    return ncclGroupEnd();
}
