import java.nio.charset.StandardCharsets;
import java.util.Scanner;

import software.amazon.awssdk.auth.credentials.AwsBasicCredentials;
import software.amazon.awssdk.auth.credentials.AwsCredentials;
import software.amazon.awssdk.auth.credentials.AwsSessionCredentials;
import software.amazon.msk.auth.iam.internals.AWS4SignedPayloadGenerator;
import software.amazon.msk.auth.iam.internals.AuthenticationRequestParams;

/**
 * Prints what AWS's own client sends to log in. Each line of input is a broker's host, an access key, its secret and,
 * optionally, a session token, with a blank between them.
 */
class Payload {
    public static void main(String[] args) throws Exception {
        Scanner lines = new Scanner(System.in, StandardCharsets.UTF_8);
        while (lines.hasNextLine()) {
            String[] words = lines.nextLine().split(" ");
            AwsCredentials credentials = words.length == 4
                ? AwsSessionCredentials.create(words[1], words[2], words[3])
                : AwsBasicCredentials.create(words[1], words[2]);
            System.out.println(login(AuthenticationRequestParams.create(words[0], credentials, "aws")));
        }
    }

    /** Signs again if a second ended between the library's two looks at the clock: it is then valid for 899 s. */
    private static String login(AuthenticationRequestParams params) throws Exception {
        String payload = "";
        for (int i = 0; i < 5 && !payload.contains("\"x-amz-expires\":\"900\""); i++) {
            payload = new String(new AWS4SignedPayloadGenerator().signedPayload(params), StandardCharsets.UTF_8);
        }
        return payload;
    }
}
